"""Pause and resume: from whatever point a training is taken up again, it ends bitwise as if nothing had happened."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.train import planted
from workbench.core.events import Event, Silent, Step, Stopped
from workbench.core.run_spec import Placed, RunSpec
from workbench.train import checkpoint, session

STEPS = 6
KINDS = {  # one method of each kind of part, one that peft runs, and everything else that a checkpoint must hold
    "weight": ("bert", "lora", {}),
    "composite": ("bert", "houlsby_adapter", {}),
    "token": ("bert", "prompt_tuning", {}),
    "side": ("bert", "read_rnn", {}),
    "select": ("bert", "bitfit", {}),
    "bridged": ("bert", "adalora", {}),
    "image": ("vit", "lora", {}),
    "language": ("llama", "ia3", {}),
    "phases": ("bert", "full", {"recipe": {"recipe": "lt_sft", "keep": 0.02}}),
    "modifier": ("bert", "lora", {"modifiers": ({"modifier": "sparse", "keep": 0.5},)}),
    "early stop": ("bert", "lora", {"early_stop": 2, "eval_every": 2}),
    "accumulation": ("bert", "lora", {"gradient_accumulation": 2, "scheduler": "cosine"}),
    "search": ("bert", "lora", {"learning_rate": (0.001, 0.02)}),
}


class Pausing(Silent):
    """Asks for a pause at the n-th question, counted from 1; keeps the events as the file would."""

    def __init__(self, at: int, before: list[Event]) -> None:
        super().__init__()
        self.events, self.left = before, at

    def wish(self) -> Any:
        self.left -= 1
        return "pause" if self.left == 0 else None


def told(events: list[Event]) -> list[dict[str, Any]]:
    """What the events say of the training, without times."""
    return [{k: v for k, v in e.record().items() if k not in ("time", "seconds")} for e in events if e.record()["event"] in SAID]


SAID = ("step", "evaluated")


def broken(spec: RunSpec, folder: Path, at: int) -> tuple[dict[str, Any], list[Event]]:
    """Train with a pause at one question, then to the end: (result, events as the file would hold them)."""
    events: list[Event] = []
    with pytest.raises(Stopped, match="pause"):
        planted.go(spec, folder, Pausing(at, events))
    found = checkpoint.find(folder, spec)
    assert found is not None
    events = events[: found[1]["offset"]]
    return planted.go(spec, folder, Pausing(0, events), Placed(attempt=2)), events


FEW = ("weight", "bridged")
"""What every run of the tests takes up again; the others are for `make test-all`."""


@pytest.mark.parametrize("kind", [k if k in FEW else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
def test_a_training_in_pieces_is_bitwise_the_whole_one(bench, kind, tmp_path):
    """Cut at every question that a run asks (once a step and once a batch of an evaluation), each in a run of its own."""
    family, method, more = KINDS[kind]
    spec = bench.spec(family, method, dropout=0.1 if family == "bert" else 0.0, **{"max_steps": STEPS, **more})
    asked = Silent()
    count = []
    asked.wish = lambda: count.append(1)  # type: ignore[method-assign]
    whole = bench.folder / f"whole-{kind}"
    result = planted.go(spec, whole, asked)
    for at in range(1, len(count) + 1, 1 if kind in ("weight", "phases") else 4):
        found, events = broken(spec, tmp_path / f"at{at}", at)
        assert planted.equal(planted.stored(whole), planted.stored(tmp_path / f"at{at}")), f"another adapter after pauses at {at}"
        assert told(events) == told(asked.events)
        assert found["metrics"] == result["metrics"]
        assert found["first_step_seconds"] is None or found["first_step_seconds"] > 0
        for name in ("steps", "trainable_params", "peak_trainable_params", "validation"):
            assert found[name] == result[name], name
        assert not (tmp_path / f"at{at}" / checkpoint.FOLDER).exists()
        assert not (tmp_path / f"at{at}" / session.BEST).exists()


def test_a_checkpoint_is_kept_now_and_then_and_as_many_as_asked(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "SAVE_EVERY", 0.0)
    seen: list[list[str]] = []
    real = checkpoint.write

    def noted(folder, *rest):
        real(folder, *rest)
        seen.append(sorted(p.name for p in (folder / checkpoint.FOLDER).iterdir()))

    monkeypatch.setattr(checkpoint, "write", noted)
    planted.go(bench.spec("bert", max_steps=4, keep_checkpoints=2), tmp_path / "a")
    assert seen == [[f"step-{s:08d}" for s in range(max(1, n - 1), n + 1)] for n in range(1, 5)]
    seen.clear()
    planted.go(bench.spec("bert", max_steps=4, keep_checkpoints=0), tmp_path / "b")
    assert seen == []


def test_a_damaged_checkpoint_gives_way_to_an_older_one_and_then_to_a_fresh_start(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "SAVE_EVERY", 0.0)
    spec = bench.spec("bert", max_steps=6, keep_checkpoints=3)
    whole, _ = bench.fresh(spec)
    with pytest.raises(Stopped):
        planted.go(spec, tmp_path, Pausing(5, []))
    newest = tmp_path / checkpoint.FOLDER / "step-00000005"
    (newest / checkpoint.TENSORS).write_bytes((newest / checkpoint.TENSORS).read_bytes()[:-1] + b"x")
    assert checkpoint.find(tmp_path, spec)[1]["done"]["steps"] == 4
    for path in (tmp_path / checkpoint.FOLDER).iterdir():
        (path / checkpoint.STATE).write_text("{")
    assert checkpoint.find(tmp_path, spec) is None
    reporter = Silent()
    planted.go(spec, tmp_path, reporter, Placed(attempt=2))
    assert [e.step for e in reporter.events if isinstance(e, Step)] == [1, 2, 3, 4, 5, 6]
    assert planted.equal(planted.stored(whole), planted.stored(tmp_path))


def test_a_checkpoint_of_another_spec_is_not_used(bench, tmp_path):
    spec = bench.spec("bert", max_steps=6)
    with pytest.raises(Stopped):
        planted.go(spec, tmp_path, Pausing(3, []))
    assert checkpoint.find(tmp_path, spec) is not None
    assert checkpoint.find(tmp_path, spec.model_copy(update={"seed": 1})) is None


def test_a_full_disk_does_not_end_the_training(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(session, "SAVE_EVERY", 0.0)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", full)
    assert planted.go(bench.spec("bert", max_steps=2), tmp_path)["steps"] == 2
    assert "checkpoint not written: [Errno 28] No space left on device" in capsys.readouterr().err


def test_a_checkpoint_is_plain_json_and_tensors(bench, tmp_path):
    spec = bench.spec("bert", max_steps=6)
    with pytest.raises(Stopped):
        planted.go(spec, tmp_path, Pausing(3, []))
    (folder,) = (tmp_path / checkpoint.FOLDER).iterdir()
    assert sorted(p.name for p in folder.iterdir()) == [checkpoint.STATE, checkpoint.TENSORS]
    plain = json.loads((folder / checkpoint.STATE).read_text())
    assert plain["place"] == {"phase": 0, "local": 3, "judged": True, "finished": False}
    assert plain["done"]["steps"] == 3
