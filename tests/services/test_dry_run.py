"""A dry run trains for real in a process of its own, and leaves nothing behind."""

import pytest

from workbench.core.errors import WorkbenchError
from workbench.services import dry_run
from workbench.tasks.contract import Example
from workbench.train import batching
from workbench.train.rehearsal import STEPS, padded, typical


def test_it_measures_and_leaves_nothing(home, spec):
    spec["training"] = {"batch_size": 4, "max_length": 16, "epochs": 3, "precision": "fp32"}
    found = dry_run.ask(spec, "lora")
    assert found["label"] == "lora"
    assert (found["device"], found["precision"], found["memory_kind"]) == ("cpu", "fp32", "cpu_rss_over_model")
    measured, said = found["measured"], found["predicted"]
    assert measured["peak_memory_bytes"] > 1_000_000
    steps = 3 * batching.steps_per_epoch(84, 4, 1)
    assert measured["train_seconds"] == pytest.approx(measured["seconds_per_step"] * steps, rel=0.1)
    assert said.keys() == {"trainable_params", "peak_memory_bytes", "train_seconds"}
    assert said["trainable_params"] == 12 * 4 * 2 * 384
    assert not (home / "runs").exists() or not list((home / "runs").iterdir())
    assert not (home / "mlflow.db").exists()


def test_what_cannot_be_trained_is_one_sentence(home, spec):
    with pytest.raises(WorkbenchError, match="closest: lora"):
        dry_run.ask(spec, "lorra")
    spec["methods"] = [{"method": "lora", "rank": 999}]
    with pytest.raises(WorkbenchError, match="at most 384"):
        dry_run.ask(spec, "lora")


@pytest.mark.parametrize(
    ("jobs", "load", "words"), [(0, 0.2, None), (1, 0.0, "1 other job ran"), (2, 9.0, "2 other jobs ran"), (0, 5.5, "load 5.5")]
)
def test_a_disturbed_time_says_so(jobs, load, words):
    notes = dry_run._disturbances(jobs, load, 2)
    assert [words in note for note in notes] == ([True] if words else [])


@pytest.mark.parametrize("rows", [1, 3, 17, 500])
def test_the_longest_batch_is_among_the_typical_ones(rows):
    examples = [Example(i, 1 + i % 50) for i in range(rows)]
    chosen = typical(examples, 4, STEPS)
    longest = sorted(examples, key=lambda e: e.length)[-4:]
    assert len(chosen) == min(rows, 4 * STEPS)
    assert {e.id for e in longest} <= {e.id for e in chosen}
    batches = batching.epoch(chosen, 4, 0, 0)
    assert max(map(padded, batches)) == padded(longest)
