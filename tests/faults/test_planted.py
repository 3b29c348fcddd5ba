"""F7: a training that goes wrong in itself ends in one true sentence, frees its slot and touches no other run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import faulty, grid, invariants, scarce
from tests.jobs.living import make_spec, start_planted, until
from workbench.core.paths import ROOT, run_folder
from workbench.jobs import client, daemon, failures, logs, wire
from workbench.jobs.store import NAME, Store
from workbench.services import queue as shown_queue
from workbench.services import results

NAN = "the loss became {} at step {}; lower learning_rate, or set clip."
FAILED = {  # label -> cause, beginning of the sentence, field
    "nan": ("not_a_number", NAN.format("nan", 3), "training.learning_rate"),
    "inf": ("not_a_number", NAN.format("inf", 3), "training.learning_rate"),
    "bad_gradient": ("not_a_number", NAN.format("nan", 4), "training.learning_rate"),
    "bad_gradient-last": ("not_a_number", "the loss of the test rows is nan; ", "training.learning_rate"),
    "gpu_memory": ("gpu_memory", "the GPU ran out of memory; ", "training.batch_size"),
    "memory": ("memory", "the machine ran out of memory; ", "training.batch_size"),
    "loader": ("other", "DataLoader worker (pid 7) exited unexpectedly (RuntimeError; the log has the details).", ""),
    "callback": ("other", "integer division or modulo by zero (ZeroDivisionError; the log has the details).", ""),
    "part": ("not_a_number", NAN.format("nan", 6), "training.learning_rate"),
    "late_memory": ("gpu_memory", "the GPU ran out of memory; ", "training.batch_size"),
    "optimizer": ("other", "The size of tensor a (8) must match the size of tensor b (4)", ""),
    "collecting": ("other", "the scores of this part are gone (RuntimeError; the log has the details).", ""),
    "validation": ("other", "y_true and y_pred must have the same length (ValueError; the log has the details).", ""),
    "one_row": ("other", "byte index 3 is not a char boundary; it is inside 'é' (bytes 2..4) (PanicException; ", ""),
    "observing": ("other", "the covariance of this site is singular (ArithmeticError; the log has the details).", ""),
    "preparing": ("other", "linalg.svd: The algorithm failed to converge because the input matrix", ""),
    "tokenizer": ("base", "transformers must be able to load the model broken", "model.source"),
    "empty_validation": ("data", "empty.csv must hold rows; it has only a header.", "data.source"),
}
OFTEN = tuple(FAILED)[:7]
"""What every run of the tests trains; the others are for `make faults`."""
FINE = ("healthy-before", "slow", "metric", "metric-stop", "healthy-after")


@pytest.fixture(scope="module")
def ended(tmp_path_factory, request):
    """label -> row, after every planted run has ended and the daemon's loop has judged it."""
    folder = tmp_path_factory.mktemp("faults")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    failing = FAILED if request.config.getoption("--slow") else OFTEN
    script = [sys.executable, "-P", str(Path(faulty.__file__)), str(folder), FINE[0], *failing, *FINE[1:]]
    subprocess.run(script, env={**environment, "WORKBENCH_HOME": str(folder / "home")}, check=True, timeout=300)
    with Store(folder / "home" / NAME) as store:
        return {row["run_id"]: {**row, "home": folder / "home"} for row in store.rows()}


@pytest.mark.parametrize("label", [f if f in OFTEN else pytest.param(f, marks=pytest.mark.slow) for f in FAILED])
def test_a_planted_fault_ends_in_one_true_sentence(ended, label, record_property):
    record_property("F7", 1)
    row, (cause, sentence, field) = ended[label], FAILED[label]
    found = results.failure(row)
    assert (row["state"], found["cause"], found["field"]) == ("failed", cause, field)
    assert row["reason"] == found["sentence"]
    assert row["reason"].startswith(sentence), row["reason"]
    assert row["reason"].endswith(".")
    assert "Traceback" not in row["reason"]
    assert 1 <= len(found["lines"]) <= failures.MOST_LINES
    log = (row["home"] / "runs" / label / "train.log").read_text()
    assert all(line in " ".join(log.split()) for line in (" ".join(one.split()).rstrip(".") for one in found["lines"]))
    assert not (row["home"] / "runs" / label / "adapter").exists()
    assert not (row["home"] / "runs" / label / "checkpoint").exists()


def test_an_undefined_metric_is_left_out_and_said(ended, record_property):
    record_property("F7", 2)
    for label in ("metric", "metric-stop"):
        row = ended[label]
        verdict = wire.read_json(row["home"] / "runs" / label / "verdict.json")
        assert (row["state"], verdict["failure"]) == ("finished", None)
        assert "accuracy" not in verdict["result"]["metrics"]
        assert verdict["result"]["metrics"]["loss"] > 0
        assert "accuracy of the test rows is not defined: it came out as nan." in verdict["result"]["notes"]
    assert wire.read_json(ended["metric-stop"]["home"] / "runs" / "metric-stop" / "verdict.json")["result"]["steps"] == 2


def test_other_runs_are_bitwise_what_they_are_alone(ended, record_property):
    record_property("F7", 1)  # the step that takes a hundred times as long
    home = ended["slow"]["home"] / "runs"
    before, slow, after = ((home / label / "adapter" / "adapter_model.safetensors") for label in (FINE[0], "slow", FINE[-1]))
    assert before.read_bytes() == slow.read_bytes() == after.read_bytes()
    assert [ended[label]["state"] for label in FINE] == ["finished"] * len(FINE)


def test_every_slot_is_free(ended):
    home = ended["slow"]["home"]
    with Store(home / NAME) as store:
        assert store.active() == []
        assert all(row["ended"] for row in store.rows())


def test_a_hang_is_flagged_and_nothing_more(tmp_path, monkeypatch, record_property):
    record_property("F7", 1)
    home = tmp_path / "home"
    monkeypatch.setenv("WORKBENCH_HOME", str(home))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(client, "ensure_daemon", start_planted)
    monkeypatch.setattr(shown_queue, "QUIET_AFTER", 0.3)
    try:
        hanging, other = client.submit([make_spec("one", steps=2, seconds=600, deaf=True), make_spec("two")])
        found = until(lambda: next((r for r in shown_queue.rows() if r["job"] == hanging and r["quiet"] is not None), None), 20)
        assert (found["state"], found["reason"]) == ("running", None)
        assert client.find(other)["state"] == "queued"
        client.cancel(hanging)
        rows = client.wait([hanging, other])
        assert [row["state"] for row in rows] == ["cancelled", "finished"]
        assert rows[0]["reason"] == "cancelled; the worker had to be stopped by force"
    finally:
        daemon.stop()


# --- the process itself goes wrong: planted trainings, real daemons


@pytest.fixture
def daemons(planted_home, monkeypatch):
    """The planted home with the daemon whose trainings go wrong at step 3."""
    monkeypatch.setattr(client, "ensure_daemon", scarce.start)
    return planted_home


DIED = {
    "native": ("killed", "the worker was killed by SIGSEGV; its last log line: "),
    "leaves": ("killed", "the worker ended with exit code 0 and no verdict; "),
    "recursion": ("other", "maximum recursion depth exceeded"),
    "interrupt": ("stopped", "the worker was told to stop from outside the workbench; retry the run."),
}


@pytest.mark.parametrize("fault", [f if f == "native" else pytest.param(f, marks=pytest.mark.slow) for f in DIED])
def test_a_worker_that_ends_in_its_own_way(daemons, fault, record_property):
    record_property("F7", 1)
    before = invariants.snapshot(daemons / "runs" / "reference")
    job, other = client.submit([make_spec("one", fault=fault), make_spec("two")])
    row, fine = client.wait([job, other])
    cause, sentence = DIED[fault]
    assert (row["state"], fine["state"], results.failure(row)["cause"]) == ("failed", "finished", cause)
    assert invariants.i10_sentence(row["reason"]) == []
    assert row["reason"].startswith(sentence), row["reason"]
    client.retry(job)
    assert client.wait([job])[0]["state"] == "finished"
    assert invariants.settled(daemons, grid.PATIENCE, acknowledged=["one", "two"], before=before) == []
    for name in ("one", "two"):
        assert invariants.i5_taken_up_again(run_folder(name), run_folder("reference")) == []


@pytest.mark.slow
def test_a_worker_that_prints_without_end_does_not_fill_the_disk(daemons, record_property):
    record_property("F7", 1)
    (job,) = client.submit([make_spec("one", fault="floods")])
    assert client.wait([job])[0]["state"] == "finished"
    log = run_folder("one") / "train.log"
    assert log.stat().st_size < logs.MOST + 2 * logs.KEPT
    text = log.read_text()
    assert text.startswith("=== attempt 1 ")
    assert "bytes are left out here" in text
    assert text.endswith("finished\n")
    assert invariants.settled(daemons, grid.PATIENCE, acknowledged=["one"]) == []
    assert invariants.i5_taken_up_again(run_folder("one"), run_folder("reference")) == []


@pytest.mark.slow
def test_a_thread_that_never_ends_does_not_keep_the_slot(daemons, record_property):
    record_property("F7", 1)
    job, other = client.submit([make_spec("one", fault="thread"), make_spec("two")])
    assert [row["state"] for row in client.wait([job, other])] == ["finished"] * 2
    assert invariants.settled(daemons, grid.PATIENCE, acknowledged=["one", "two"]) == []
    assert invariants.i5_taken_up_again(run_folder("one"), run_folder("reference")) == []


@pytest.mark.slow
def test_a_hang_before_the_first_step_is_flagged_and_can_be_ended(daemons, monkeypatch, record_property):
    record_property("F7", 1)
    monkeypatch.setattr(shown_queue, "QUIET_AFTER", 0.3)
    (job,) = client.submit([make_spec("one", fault="hangs")])
    found = until(lambda: next((r for r in shown_queue.rows() if r["job"] == job and r["quiet"] is not None), None), 60)
    assert (found["state"], found["reason"]) == ("running", None)
    client.cancel(job)
    assert client.wait([job])[0]["state"] == "cancelled"
    assert invariants.settled(daemons, grid.PATIENCE, acknowledged=["one"]) == []
