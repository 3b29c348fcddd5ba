"""Real daemons and real workers: every row tells the truth, whoever is killed, and nothing is left running."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.jobs.living import PLANTED, make_spec, processes_of, start_planted, until
from workbench.core.errors import WorkbenchError
from workbench.core.locks import is_held, run_lock
from workbench.core.paths import ROOT, run_folder
from workbench.jobs import client, daemon, detach, processes, removing, slots, wire

REAL_ENSURE = client.ensure_daemon


def state(job):
    return client.find(job)["state"]


def running(job):
    """Wait until the worker has taken a step."""
    return until(lambda: (row := client.find(job))["state"] == "running" and "'event': 'step'" in client.logs(job) and row)


def kill_daemon():
    pid = daemon.status()["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: not daemon.status()["running"] and processes.created(pid) is None)


def test_a_training_runs_and_leaves_its_record(queue, home):
    changes = []
    (job,) = queue.submit([make_spec("one", steps=4)])
    (row,) = queue.wait([job], lambda rows: changes.append(rows[0]["state"]))
    assert (row["state"], row["step"], row["steps"], row["attempt"], row["reason"]) == ("finished", 4, 4, 1, None)
    assert row["submitted"] <= row["started"] <= row["ended"]
    assert changes[-1] == "finished"
    verdict = queue.verdict(job)
    assert verdict["result"] == {"metrics": {"accuracy": None}, "neighbours": False, "steps": 4, "began_at": 0}
    threads = slots.cores()
    placed = json.loads((run_folder("one") / "placement.json").read_text())
    assert placed.pop("boot") == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert placed == {"device": "cpu", "threads": threads, "attempt": 1, "neighbours": False}
    log = queue.logs("one")
    assert log.startswith("=== attempt 1 ")
    assert f"environment {threads} {home} ''" in log
    assert "reporter closed" in log
    assert not is_held(run_lock(home, "one"))


def test_jobs_wait_their_turn_and_short_ones_run_beside(queue):
    first, second = queue.submit([make_spec("one", steps=40, seconds=0.05), make_spec("two", steps=1)])
    running(first)
    short = queue.submit_short("operate", {"name": "merge", "seconds": 0.1})
    queue.wait([short])
    assert (state(first), state(second), state(short)) == ("running", "queued", "finished")
    assert queue.verdict(short)["result"]["slept"] == 0.1
    queue.wait([first, second])
    rows = {row["run_id"]: row for row in queue.jobs("first")}
    assert rows["one"]["ended"] <= rows["two"]["started"]
    assert queue.verdict(first)["result"]["neighbours"] is True
    assert queue.verdict(second)["result"]["neighbours"] is False


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"raise": "ours"}, "the learning rate must be smaller; lower it."),
        ({"raise": "other"}, "shapes do not fit (ValueError; the log has the details)."),
    ],
)
def test_a_failure_is_one_sentence_and_the_log_has_the_rest(queue, config, reason):
    (job,) = queue.submit([make_spec("one", **config)])
    (row,) = queue.wait([job])
    assert (row["state"], row["reason"]) == ("failed", reason)
    assert "Traceback" in queue.logs(job)


def test_a_killed_worker_is_failed_within_seconds_and_its_children_go(queue, home):
    (job,) = queue.submit([make_spec("one", steps=1000, seconds=0.05, child=True)])
    row = running(job)
    assert len(processes.members(row["pgid"], row["pid_created"])) == 2
    half = run_folder("one") / ".verdict.json.1.tmp"
    half.touch()
    os.kill(row["pid"], signal.SIGKILL)
    until(lambda: state(job) == "failed", 3)
    assert not half.exists()
    reason = client.find(job)["reason"]
    assert reason.startswith("the worker was killed by SIGKILL (by hand, or by the system because memory ran out); its last log")
    assert processes.members(row["pgid"], row["pid_created"]) == []
    assert processes_of(home) == [daemon.status()["pid"]]


def test_what_a_finished_worker_leaves_behind_is_killed(queue, home):
    (job,) = queue.submit([make_spec("one", child=True)])
    assert queue.wait([job])[0]["state"] == "finished"
    assert processes_of(home) == [daemon.status()["pid"]]


def test_the_verdict_wins_over_the_way_the_worker_ended(queue):
    (job,) = queue.submit([make_spec("one", verdict=True)])
    assert queue.wait([job])[0]["state"] == "finished"


def test_cancel_asks_first(queue):
    first, _ = queue.submit([make_spec("one", steps=1000, seconds=0.05), make_spec("two")])
    running(first)
    assert queue.cancel("two")["state"] == "cancelled"
    assert queue.cancel(first)["intent"] == "cancel"
    (row,) = queue.wait([first])
    assert (row["state"], row["reason"]) == ("cancelled", "cancelled on request")
    assert queue.verdict(first)["state"] == "cancelled"
    with pytest.raises(WorkbenchError, match="is cancelled"):
        queue.cancel(first)


def test_cancel_of_a_deaf_worker_ends_by_force(queue):
    (job,) = queue.submit([make_spec("one", steps=1000, seconds=0.05, deaf=True, child=True)])
    row = running(job)
    queue.cancel(job)
    until(lambda: state(job) == "cancelled", 5)
    assert client.find(job)["reason"] == "cancelled; the worker had to be stopped by force"
    assert processes.members(row["pgid"], row["pid_created"]) == []


def test_cancel_of_short_work_interrupts_it(queue):
    job = queue.submit_short("operate", {"seconds": 60})
    until(lambda: state(job) == "running")
    queue.cancel(job)
    until(lambda: state(job) == "cancelled", 3)
    assert queue.verdict(job)["reason"] == "cancelled on request"


def test_retry_starts_afresh_and_keeps_the_log(queue):
    (job,) = queue.submit([make_spec("one", **{"raise": "ours"})])
    queue.wait([job])
    (run_folder("one") / "adapter" / "old").touch()
    (run_folder("one") / "checkpoint").mkdir()
    with pytest.raises(WorkbenchError, match="only a job that is not over"):
        queue.cancel(job)
    assert queue.retry(job)["attempt"] == 2
    (row,) = queue.wait([job])
    assert (row["state"], row["attempt"]) == ("failed", 2)
    assert queue.verdict(job)["attempt"] == 2
    assert not (run_folder("one") / "adapter" / "old").exists()
    assert not (run_folder("one") / "checkpoint").exists()
    assert queue.logs(job).count("=== attempt") == 2


def test_a_killed_daemon_is_replaced_and_its_workers_adopted(queue, home):
    living, dying, waiting = queue.submit(
        [make_spec("living", steps=70, seconds=0.05), make_spec("dying"), make_spec("waiting", steps=1)]
    )
    row = running(living)
    kill_daemon()
    with client.Store(home / "jobs.db") as store:
        store.claim("cpu:9", ("train",))  # claimed, but its daemon died before it started a worker
    assert state(dying) == "starting"
    assert processes.alive(row["pid"], row["pid_created"])
    start_planted()
    assert state(living) == "running"
    assert (state(dying), client.find(dying)["attempt"]) == ("queued", 2)
    rows = queue.wait([living, dying, waiting])
    assert [r["state"] for r in rows] == ["finished"] * 3
    assert rows[0]["pid"] == row["pid"]


def test_what_died_while_no_daemon_lived_is_told_at_its_start(queue):
    (job,) = queue.submit([make_spec("one", steps=1000, seconds=0.05)])
    row = running(job)
    kill_daemon()
    os.kill(row["pid"], signal.SIGKILL)
    until(lambda: not processes.alive(row["pid"], row["pid_created"]))
    begin = time.monotonic()
    start_planted()
    assert state(job) == "failed"
    assert client.find(job)["reason"].startswith("the worker was killed or ended without a verdict; its last log line: {")
    assert time.monotonic() - begin < 5


def test_waiting_survives_a_killed_daemon(queue, monkeypatch):
    monkeypatch.setattr(client, "ENSURE_EVERY", 0.2)
    first, second = queue.submit([make_spec("one", steps=20, seconds=0.05), make_spec("two")])
    running(first)
    kill_daemon()
    assert [row["state"] for row in queue.wait([first, second])] == ["finished", "finished"]


def test_eight_clients_at_once_get_one_daemon(home):
    script = "from tests.jobs.living import start_planted, daemon; start_planted(); print(daemon.status()['pid'])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True) for _ in range(8)
    ]
    pids = {process.communicate(timeout=60)[0].strip() for process in started}
    assert pids == {str(daemon.status()["pid"])}
    assert [process.returncode for process in started] == [0] * 8


def test_daemons_started_past_the_clients_are_one_too(home):
    started = [subprocess.Popen([*PLANTED, "daemon"], env=detach.environment()) for _ in range(4)]
    assert [process.wait(30) for process in started] == [0] * 4
    assert processes_of(home) == [daemon.status()["pid"]]


def test_an_idle_daemon_leaves(home, monkeypatch, store):
    monkeypatch.setenv("WORKBENCH_IDLE_SECONDS", "0.3")
    start_planted()
    until(lambda: processes_of(home) == [], 5)
    assert not daemon.status()["running"]
    assert not daemon.ready_file().exists()


def test_a_daemon_without_a_home_leaves(home):
    start_planted()
    shutil.rmtree(home)
    until(lambda: processes_of(home) == [], 5)


def test_stop_leaves_the_workers(queue, home):
    (job,) = queue.submit([make_spec("one", steps=20, seconds=0.05)])
    row = running(job)
    assert daemon.stop()
    assert not daemon.stop()
    assert processes_of(home) == [row["pid"]]
    assert queue.wait([job])[0]["state"] == "finished"


def test_the_real_daemon_and_worker(home, monkeypatch):
    client.ensure_daemon()
    monkeypatch.setattr(detach, "code_stamp", lambda: wire.read_json(daemon.ready_file())["code"])
    first = daemon.status()
    client.ensure_daemon()
    assert daemon.status() == first
    job = client.submit_short("verify", {"folder": "/nowhere"})
    (row,) = client.wait([job])
    assert row["state"] == "failed"
    assert row["reason"].endswith(".")
    assert "Traceback" in client.logs(job)
    monkeypatch.setattr(detach, "code_stamp", lambda: "another")
    assert daemon.status()["stale"]
    client.ensure_daemon()
    assert daemon.status()["pid"] != first["pid"]


def test_a_stale_daemon_with_work_is_left_alone(queue, monkeypatch):
    (job,) = queue.submit([make_spec("one", steps=1000, seconds=0.05)])
    running(job)
    pid = daemon.status()["pid"]
    real = daemon.status
    monkeypatch.setattr(daemon, "status", lambda: {**real(), "stale": True})
    REAL_ENSURE()
    assert real()["pid"] == pid
    queue.cancel(job)
    queue.wait([job])


def test_half_made_folders_are_swept_unless_a_submit_is_going_on(home, store):
    runs = home / "runs"
    dead, living = runs / ".new-1-1-abc", removing.new_folder(runs)
    for folder in (dead, living, runs / ".gone-abc", runs / "half", runs / "row", runs / "full", runs / "waits"):
        folder.mkdir(parents=True)
        (folder / "spec.yaml").touch()
    (runs / "full" / "train.log").touch()
    (runs / "waits" / ".placement.json.1.tmp").touch()
    blank = {"experiment": "", "name": "", "kind": "none", "label": "", "method": "", "seed": 0, "spec": ""}
    store.add([{"run_id": "row", **blank}, {"run_id": "waits", **blank}])
    store.cancel(1)
    removing.sweep(store)
    assert sorted(path.name for path in runs.iterdir()) == [living.name, "full", "half", "row", "waits"]
    shutil.rmtree(living)
    start_planted()
    assert sorted(path.name for path in runs.iterdir()) == ["full", "row", "waits"]
    assert [path.name for path in (runs / "waits").iterdir()] == ["spec.yaml"]


def test_a_run_whose_folder_is_gone_fails_alone(queue):
    (first,) = queue.submit([make_spec("long", steps=20, seconds=0.05)])
    running(first)
    gone, fine = queue.submit([make_spec("gone"), make_spec("fine")])
    shutil.rmtree(run_folder("gone"))
    rows = queue.wait([first, gone, fine])
    assert [row["state"] for row in rows] == ["finished", "failed", "finished"]
    assert rows[1]["reason"].startswith("the worker could not be started: gone/spec.yaml cannot be read")


def test_a_second_worker_or_a_stale_one_does_nothing(queue, home):
    (job,) = queue.submit([make_spec("one", steps=1000, seconds=0.05)])
    running(job)
    command = [*PLANTED, "worker", str(run_folder("one"))]
    second = subprocess.run(command, env=detach.environment(), capture_output=True, text=True, check=False)
    assert (second.returncode, second.stderr) == (3, "another worker holds this run\n")
    queue.cancel(job)
    queue.wait([job])
    before = wire.read_json(run_folder("one") / "verdict.json")
    stale = subprocess.run(command, env=detach.environment(), capture_output=True, text=True, check=False)
    assert (stale.returncode, stale.stderr) == (3, "this attempt is not the current one\n")
    assert wire.read_json(run_folder("one") / "verdict.json") == before
