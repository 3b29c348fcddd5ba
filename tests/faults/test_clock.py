"""F8: the clock jumps, forth and back, while jobs wait, run, are paused and while no daemon is there; nothing depends on it."""

import json
import os
import signal
import time

import pytest

from tests.faults import clocked, invariants
from tests.jobs.living import make_spec, until
from workbench.core.events import Started, Step
from workbench.core.paths import run_folder
from workbench.jobs import client, daemon, processes

HOUR, YEAR = 3600.0, 365 * 86400.0
JUMPS = {"an hour on": HOUR, "an hour back": -HOUR, "a year on": YEAR, "a year back": -YEAR}
LIMIT = 60.0


@pytest.fixture
def clock(planted_home, monkeypatch):
    """Sets the clock of daemon, workers and this process, off by so many seconds."""
    monkeypatch.setattr(client, "ensure_daemon", clocked.start)
    monkeypatch.setattr(time, "time", clocked.now)

    def jump(seconds: float) -> None:
        (planted_home / "clock.new").write_text(str(seconds))
        os.replace(planted_home / "clock.new", planted_home / "clock")

    return jump


def rest(*jobs: int) -> None:
    until(lambda: all(client.find(job)["state"] in invariants.RESTING for job in jobs), LIMIT)


@pytest.mark.parametrize("how", [how if how == "a year back" else pytest.param(how, marks=pytest.mark.slow) for how in JUMPS])
def test_a_jump_while_jobs_run_and_wait(planted_home, clock, how, record_property):
    record_property("F8", 1)
    before = invariants.snapshot(planted_home / "runs" / "reference")
    first, second = client.submit([make_spec("one", seconds=0.3), make_spec("two")])
    until(lambda: client.find(first)["state"] == "running", LIMIT)
    clock(JUMPS[how])
    rows = client.wait([first, second])
    assert [(row["state"], row["attempt"], row["reason"]) for row in rows] == [("finished", 1, None)] * 2
    (later,) = client.submit([make_spec("three")])
    clock(0.0)
    assert client.wait([later])[0]["state"] == "finished"
    assert [row["run_id"] for row in client.jobs()] == ["reference", "one", "two", "three"]
    assert invariants.settled(planted_home, LIMIT, acknowledged=["one", "two", "three"], before=before) == []
    for name in ("one", "two", "three"):
        assert invariants.i5_taken_up_again(run_folder(name), run_folder("reference")) == []


@pytest.mark.parametrize("how", [how if how == "a year on" else pytest.param(how, marks=pytest.mark.slow) for how in JUMPS])
def test_a_jump_while_nobody_looks(planted_home, clock, how, record_property):
    """The daemon is killed, the clock jumps, a new daemon adopts the worker, takes up the paused run and sweeps nothing."""
    record_property("F8", 1)
    (paused,) = client.submit([make_spec("one", seconds=0.1, asks="pause")])
    until(lambda: client.find(paused)["state"] == "paused", LIMIT)
    live, waiting = client.submit([make_spec("two", seconds=0.4), make_spec("three")])
    until(lambda: client.find(live)["state"] == "running", LIMIT)
    pid = daemon.status()["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: processes.created(pid) is None, LIMIT)
    clock(JUMPS[how])
    clocked.start()
    client.resume(paused)
    rest(paused, live, waiting)
    rows = {row["run_id"]: row for row in client.jobs()}
    assert {name: (row["state"], row["attempt"]) for name, row in rows.items() if name != "reference"} == {
        "one": ("finished", 2), "two": ("finished", 1), "three": ("finished", 1),
    }  # fmt: skip
    assert invariants.settled(planted_home, LIMIT, acknowledged=["one", "two", "three"]) == []
    for name in ("one", "two", "three"):
        assert invariants.i5_taken_up_again(run_folder(name), run_folder("reference")) == []


@pytest.mark.slow
def test_a_clock_set_back_between_two_attempts_does_not_bring_old_values_back(tmp_path, monkeypatch, record_property):
    from tracking import client as tracked
    from tracking import query, reporter

    record_property("F8", 1)
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    spec = make_spec("one")
    run, folder, now = tracked.start_run(spec), run_folder("one"), time.time()
    first = reporter.FileReporter(folder, 1, None, lambda: None)
    first.emit(Started(2, 1, "cpu", 1, time=now))
    kept = first.offset
    first.emit(Step(1, 1.0, 1e-3, 0.01, 4, time=now + 1))
    first.close()
    assert reporter.resend(folder, run)
    second = reporter.FileReporter(folder, 2, None, lambda: None, kept)
    second.emit(Step(1, 2.0, 1e-3, 0.01, 4, time=now - HOUR))
    second.emit(Step(2, 3.0, 1e-3, 0.01, 4, time=now - HOUR + 1))
    second.close()
    assert reporter.resend(folder, run)
    assert query.history(run, "train/loss")["value"].tolist() == [2.0, 3.0]
    assert tracked.client().get_run(run).data.metrics["train/loss"] == 3.0
    assert json.loads((folder / "tracking.json").read_text())["stamp"] >= int(now * 1000)
