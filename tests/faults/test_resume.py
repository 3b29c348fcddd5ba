"""I5 with real trainings: killed while a checkpoint or adapter is written, or at any event, then taken up again: bitwise same."""

import os
import signal

import pytest

from tests.faults import invariants
from tests.train import planted
from tests.train.conftest import bench  # noqa: F401 - the fixture: tiny bases, made once
from tracking.reporter import FileReporter
from workbench.core import durable, failpoints
from workbench.core.run_spec import Placed
from workbench.train import checkpoint, session

STEPS = 11
"""With them every kind is killed at 41 points."""
KINDS = {
    "weight": ("lora", {}),
    "activation": ("loreft", {}),
    "composite": ("houlsby_adapter", {}),
    "token": ("prompt_tuning", {}),
    "side": ("read_rnn", {}),
    "select": ("bitfit", {}),
    "phases": ("full", {"recipe": {"recipe": "lt_sft", "keep": 0.02}}),
}
POINTS = [
    *(f"checkpoint.{what}@{n}" for n in range(1, STEPS + 1) for what in ("written", "renamed")),
    *(f"event@{n}" for n in range(1, STEPS + 8)),
    "adapter.written",
]
SLICE = {("weight", "checkpoint.written@2"), ("weight", "checkpoint.renamed@3"), ("weight", "event@7")}


def attempt(spec, folder, number, at_event=0):
    """Train as a worker does, with the real events.jsonl; killed at an event if asked."""
    found = checkpoint.find(folder, spec) if number > 1 else None
    reporter = FileReporter(folder, number, None, lambda: None, 0 if found is None else found[1]["offset"])
    emit, seen = reporter.emit, []

    def emitted(event):
        emit(event)
        seen.append(event)
        if len(seen) == at_event:
            os.kill(os.getpid(), signal.SIGKILL)

    reporter.emit = emitted
    with reporter:
        return planted.go(spec, folder, reporter, Placed(attempt=number))


def killed(spec, folder, point):
    """Train in a fork that is killed at this point."""
    place, _, count = point.partition("@")
    folder.mkdir()
    child = os.fork()
    if child == 0:
        try:
            session.SAVE_EVERY = 0.0
            os.environ["WORKBENCH_HOME"] = str(folder)
            if place != "event":
                failpoints._WANTED = failpoints._parsed(f"{point}:KILL")
            attempt(spec, folder, 1, int(count) if place == "event" else 0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def whole(bench, tmp_path_factory):  # noqa: F811
    """Kind -> (spec, the run that nothing disturbed)."""
    made = {}

    def ask(kind):
        if kind not in made:
            method, more = KINDS[kind]
            spec = bench.spec("bert", method, dropout=0.1, max_steps=STEPS, eval_every=2, keep_checkpoints=2, **more)
            folder = tmp_path_factory.mktemp(f"undisturbed-{kind}")
            attempt(spec, folder, 1)
            made[kind] = (spec, folder)
        return made[kind]

    return ask


CASES = [
    pytest.param(kind, point, marks=[] if (kind, point) in SLICE else pytest.mark.slow) for kind in KINDS for point in POINTS
]


@pytest.mark.parametrize(("kind", "point"), CASES)
def test_a_killed_training_taken_up_again_is_bitwise_the_undisturbed_one(kind, point, whole, tmp_path, record_property):
    record_property("F1", 1)
    spec, reference = whole(kind)
    run = tmp_path / "run"
    assert killed(spec, run, point) == -signal.SIGKILL
    for place in (run, run / checkpoint.FOLDER):  # as the daemon does when a worker is gone
        durable.sweep(place, everything=True)
    assert invariants._checkpoints(run) == []
    attempt(spec, run, 2)
    assert invariants.i5_taken_up_again(run, reference) == []
    assert not (run / checkpoint.FOLDER).exists()
