"""F7: a training that goes wrong in itself ends in one true sentence, frees its slot and touches no other run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import faulty
from tests.jobs.living import make_spec, start_planted, until
from workbench.core.paths import ROOT
from workbench.jobs import client, daemon, failures, wire
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
    "tokenizer": ("base", "transformers must be able to load the model broken", "model.source"),
    "empty_validation": ("data", "empty.csv must hold rows; it has only a header.", "data.source"),
}
FINE = ("healthy-before", "slow", "metric", "metric-stop", "healthy-after")
ORDER = (FINE[0], *FAILED, *FINE[1:])


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """label -> row, after every planted run has ended and the daemon's loop has judged it."""
    folder = tmp_path_factory.mktemp("faults")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = [sys.executable, "-P", str(Path(faulty.__file__)), str(folder), *ORDER]
    subprocess.run(script, env={**environment, "WORKBENCH_HOME": str(folder / "home")}, check=True, timeout=300)
    with Store(folder / "home" / NAME) as store:
        return {row["run_id"]: {**row, "home": folder / "home"} for row in store.rows()}


@pytest.mark.parametrize("label", FAILED)
def test_a_planted_fault_ends_in_one_true_sentence(ended, label):
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


def test_an_undefined_metric_is_left_out_and_said(ended):
    for label in ("metric", "metric-stop"):
        row = ended[label]
        verdict = wire.read_json(row["home"] / "runs" / label / "verdict.json")
        assert (row["state"], verdict["failure"]) == ("finished", None)
        assert "accuracy" not in verdict["result"]["metrics"]
        assert verdict["result"]["metrics"]["loss"] > 0
        assert "accuracy of the test rows is not defined: it came out as nan." in verdict["result"]["notes"]
    assert wire.read_json(ended["metric-stop"]["home"] / "runs" / "metric-stop" / "verdict.json")["result"]["steps"] == 2


def test_other_runs_are_bitwise_what_they_are_alone(ended):
    home = ended["slow"]["home"] / "runs"
    before, slow, after = ((home / label / "adapter" / "adapter_model.safetensors") for label in (FINE[0], "slow", FINE[-1]))
    assert before.read_bytes() == slow.read_bytes() == after.read_bytes()
    assert [ended[label]["state"] for label in FINE] == ["finished"] * len(FINE)


def test_every_slot_is_free(ended):
    home = ended["slow"]["home"]
    with Store(home / NAME) as store:
        assert store.active() == []
        assert all(row["ended"] for row in store.rows())


def test_a_hang_is_flagged_and_nothing_more(tmp_path, monkeypatch):
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
