"""`init_from`: a run starts bitwise where a saved adapter stands, or says in one sentence why it cannot."""

from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from tests.train import planted
from workbench import tasks
from workbench.core.errors import WorkbenchError
from workbench.core.events import Measured, Silent, Step
from workbench.core.run_spec import AdapterRef
from workbench.core.spec import DataSpec
from workbench.data import load_table
from workbench.evaluate import evaluation, saved, starting
from workbench.kernel import registry, state
from workbench.train import batching
from workbench.train.building import build

STILL = {"learning_rate": 1e-12, "max_steps": 1, "weight_decay": 0.0, "warmup": 0.0}


def ref(folder: Any) -> AdapterRef:
    return starting.look(folder).ref


def predictions(folder: Any) -> list[dict[str, Any]]:
    return pq.read_table(folder / "predictions.parquet").to_pylist()


@pytest.fixture
def first(bench):
    return bench.run("bert", seed=3)[0]


@pytest.mark.parametrize("method", ["lora", "full", "bitfit", "houlsby_adapter", "prompt_tuning", "vera", "head_only"])
def test_the_start_predicts_bitwise_what_the_adapter_predicted(bench, method):
    """Before any step, base tensors (full, bitfit), shared banks (vera) and the head included; the seed is another one."""
    done, _ = bench.run("bert", method, seed=3)
    spec = bench.spec("bert", method, seed=4, init_from=ref(done))
    task = tasks.find("text_classification")(bench.base("bert"), ("neg", "pos"), spec.training.max_length)
    models, notes = build(spec, task, "cpu")
    rows = task.encode(load_table(spec.data, task.parts).test)
    found, _ = evaluation.evaluate(task, models.host, rows, 2 * spec.training.batch_size)
    assert [(p.id, p.prediction, p.loss) for p in found] == [(r["id"], r["prediction"], r["loss"]) for r in predictions(done)]
    assert notes == []


def test_the_first_step_is_taken_from_there(bench, first):
    """The first loss is that of the saved adapter on the first batch, and a run that hardly moves predicts the same."""
    reporter = Silent()
    spec = bench.spec("bert", seed=4, init_from=ref(first), **STILL)
    folder, result = bench.fresh(spec, reporter)
    one = saved.revive(saved.read(first / "adapter"), first)
    one.host.train()
    rows = one.task.encode(load_table(spec.data, one.task.parts).train)
    batch = one.task.collate(next(batching.forever(rows, spec.training.batch_size, spec.seed)))
    loss = one.task.losses(evaluation.forward(one.host, batch), batch).mean().item()
    assert next(e.loss for e in reporter.events if isinstance(e, Step)) == loss
    assert [r["prediction"] for r in predictions(folder)] == [r["prediction"] for r in predictions(first)]
    assert [r["loss"] for r in predictions(folder)] == pytest.approx([r["loss"] for r in predictions(first)], abs=1e-6)
    assert result["notes"] == []
    assert planted.stored(folder).meta["init_from"] == spec.init_from.sha256


def test_training_goes_on_from_there(bench, first):
    """Two runs with the same seed differ only by their start."""
    on, _ = bench.fresh(bench.spec("bert", seed=4, init_from=ref(first)))
    anew, _ = bench.run("bert", seed=4)
    again, _ = bench.fresh(bench.spec("bert", seed=4, init_from=ref(first)))
    assert planted.equal(planted.stored(on), planted.stored(again))
    assert not planted.equal(planted.stored(on), planted.stored(anew))


def test_other_label_names_start_with_a_fresh_head_and_say_so(bench, first, tmp_path):
    rows = [(t, {"pos": "up", "neg": "down"}[k]) for t, k in planted.sentences(40)]
    data = DataSpec(source=str(planted.csv(tmp_path / "rows.csv", "text,label", rows)), test=0.25, validation=0.2)
    spec = planted.spec(bench.base("bert"), "text_classification", data, seed=4, init_from=ref(first), **STILL)
    reporter = Silent()
    folder, result = bench.fresh(spec, reporter)
    fresh, _ = bench.run("bert", seed=4, **STILL)
    (note,) = result["notes"]
    assert note.startswith("the head starts fresh")
    assert "'neg', 'pos'" in note
    assert any(note in e.notes.get("notes", "") for e in reporter.events if isinstance(e, Measured))
    heads = [planted.stored(f).head["classifier.weight"] for f in (folder, fresh, first)]
    assert torch.allclose(heads[0], heads[1], atol=1e-9)
    assert not torch.allclose(heads[0], heads[2], atol=1e-4)


def test_a_sparse_run_starts_there_and_is_pruned_afterwards(bench, first):
    masked = {"modifier": "sparse", "keep": 0.5, "score": "magnitude"}
    folder, _ = bench.fresh(bench.spec("bert", seed=4, init_from=ref(first), modifiers=(masked,), **STILL))
    before, after = planted.stored(first).tensors, planted.stored(folder).tensors
    kept = {n: t != 0 for n, t in after.items()}
    assert 0.4 < sum(int(k.sum()) for k in kept.values()) / sum(k.numel() for k in kept.values()) <= 0.5
    assert all(torch.allclose(after[n][kept[n]], before[n][kept[n]], atol=1e-9) for n in after)


def test_the_changes_of_a_sparse_fine_tuning_are_a_start_for_full(bench):
    """They are stored as positions and values."""
    done, _ = bench.run("bert", "full", recipe={"recipe": "lt_sft", "keep": 0.1})
    assert any(n.endswith("#at") for n in planted.stored(done).tensors)
    folder, _ = bench.fresh(bench.spec("bert", "full", init_from=ref(done), **STILL))
    assert [r["loss"] for r in predictions(folder)] == pytest.approx([r["loss"] for r in predictions(done)], abs=1e-5)


def test_an_adapter_that_changed_after_submit_is_refused(bench, tmp_path):
    done, _ = bench.fresh(bench.spec("bert"))
    spec = bench.spec("bert", init_from=ref(done))
    other, _ = bench.fresh(bench.spec("bert", seed=5))
    (done / "adapter" / state.WEIGHTS).write_bytes((other / "adapter" / state.WEIGHTS).read_bytes())
    with pytest.raises(WorkbenchError, match=r"^init_from must be the adapter that was submitted; .* has changed since"):
        bench.fresh(spec)


# --- what does not fit, before any weight is allocated -------------------------------------------------------------


def misfit(bench: Any, folder: Any, method: str, base: str = "", **config: Any) -> str | None:
    start = starting.look(folder)
    task = tasks.find("text_classification")(bench.base("bert"), ("neg", "pos"), 24)
    host = task.host(meta=True)
    values = {**registry.methods()[method].tiny.model_dump(exclude_defaults=True), **config}
    cfg = registry.configure(method, values)
    return starting.problem(start, host, task.head(host), method, cfg, base or start.meta["base"]["sha256"])


def test_misfits_are_one_sentence_each(bench, first):
    tiny = registry.methods()["lora"].tiny
    assert misfit(bench, first, "lora") is None
    assert misfit(bench, first, "lora", alpha=tiny.alpha + 1) is None  # the tensors fit; a note says that it differs
    assert misfit(bench, first, "full") == "init_from must name an adapter of the method full; r1 is one of lora."
    assert "same base weights (sha256 000000000000...)" in str(misfit(bench, first, "lora", base="0" * 64))
    assert f"rank is {tiny.rank} there and {tiny.rank + 1} here" in str(misfit(bench, first, "lora", rank=tiny.rank + 1))
    assert "roles is" in str(misfit(bench, first, "lora", roles=["attn.k"]))


@pytest.mark.parametrize("method", ["shira", "unilora", "full", "vera", "adalora"])
def test_a_method_fits_its_own_adapter(bench, method):
    """Also where a method cannot be built without weights, as peft's shira."""
    folder, _ = bench.run("bert", method)
    assert misfit(bench, folder, method) is None


def test_a_run_folder_or_its_adapter_folder_will_do_and_another_folder_not(first, tmp_path):
    assert starting.look(first).ref == starting.look(first / "adapter").ref
    with pytest.raises(WorkbenchError, match=r"must hold workbench_adapter\.json"):
        starting.look(tmp_path)
