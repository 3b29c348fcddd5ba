"""Predictions beside stored runs: what counts, what does not, and that it is cheap."""

import pytest

from tests.services.planted import plant, run_spec
from workbench.plan import FORMULA
from workbench.services import stored as verdicts
from workbench.services.calibration import Record

BASE = "ab" * 32


def predicted(memory=1.0e8, seconds=10.0, shown=1.0, **more):
    """What a run keeps of its plan."""
    return {
        "trainable_params": 36864, "peak_memory_bytes": memory * shown, "train_seconds": seconds * shown,
        "raw_peak_memory_bytes": memory, "raw_train_seconds": seconds, "steps": 50, "formula": FORMULA, **more,
    }  # fmt: skip


def stored(number, said=None, **result):
    """One finished run of 2.0e8 bytes and 12.5 seconds, unless `result` says otherwise."""
    plant(run_spec(f"past-{number:06d}", "lora", 0), predicted=said or predicted(), **result)


@pytest.fixture(autouse=True)
def fresh(home):
    """A home of its own."""
    home.mkdir(parents=True, exist_ok=True)
    return home


def test_an_empty_home_is_not_calibrated():
    found = Record.read().of("cpu", "fp32", BASE).as_plain()
    assert found["memory"] == {"n": 0, "factor": None, "low": None, "high": None, "error": None, "used": False}
    assert found["sentence"].startswith("Not calibrated: no finished run")


def test_three_runs_make_a_factor_and_two_do_not():
    for number in range(2):
        stored(number)
    two = Record.read().of("cpu", "fp32", BASE)
    assert (two.memory.n, two.memory.by) == (2, 1.0)
    assert "Used from 3 runs on." in two.as_plain()["sentence"]
    stored(2)
    three = Record.read().of("cpu", "fp32", BASE)
    assert (three.memory.by, three.seconds.by) == (2.0, 1.25)
    assert three.memory.error == pytest.approx(0.5)
    assert "multiplied by 2.00" in three.sentence()


def test_only_comparable_runs_count():
    for number in range(3):
        stored(number)
    stored(10, neighbours=True)
    stored(11, predicted(formula=FORMULA - 1))
    stored(12, {"peak_memory_bytes": 1.5e8})  # of a version that kept less
    stored(13, precision="bf16")
    stored(14, memory_kind="cuda_allocated")
    plant(run_spec("past-000020", "lora", 0), "failed", reason="no")
    assert Record.read().of("cpu", "fp32", BASE).memory.n == 3
    assert Record.read().of("cpu", "bf16", BASE).memory.n == 1
    assert Record.read().of("cuda", "fp32", BASE).memory.n == 1


def test_a_run_that_stopped_early_says_nothing_about_time():
    for number in range(3):
        stored(number, steps=7)
    found = Record.read().of("cpu", "fp32", BASE)
    assert (found.memory.n, found.seconds.n) == (3, 0)


def test_runs_of_the_same_base_come_first():
    for number in range(3):
        stored(number, peak_memory_bytes=3.0e8)
        stored(10 + number, base_sha256="cd" * 32, peak_memory_bytes=1.0e8)
    assert Record.read().of("cpu", "fp32", BASE).memory.by == 3.0
    assert Record.read().of("cpu", "fp32", "cd" * 32).memory.by == 1.0
    other = Record.read().of("cpu", "fp32", "ef" * 32)
    assert (other.memory.n, other.where) == (6, "of any base model on the processor in fp32")


def test_a_calibrated_prediction_is_not_calibrated_again():
    for number in range(4):
        stored(number, predicted(shown=2.0))
    found = Record.read().of("cpu", "fp32", BASE).memory
    assert found.by == 2.0
    assert found.error == 0.0


def test_finished_runs_are_read_once(monkeypatch):
    for number in range(60):
        stored(number)
    Record.read()
    read = []
    monkeypatch.setattr(verdicts.wire, "read_json", lambda path: read.append(path) or {})
    assert len(Record.read().runs) == 60
    assert not read
