"""Submitting is all or nothing; every refusal is one sentence."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.jobs.living import make_spec, until
from workbench.core import safe_yaml
from workbench.core.errors import WorkbenchError
from workbench.core.locks import is_held, run_lock
from workbench.core.paths import ROOT, run_folder
from workbench.core.run_spec import RunSpec
from workbench.jobs import client, wire
from workbench.jobs.store import Store


@pytest.fixture
def still(home, monkeypatch):
    """The client without any daemon."""
    monkeypatch.setattr(client, "ensure_daemon", lambda: None)
    return client


def left_in(home):
    return sorted(path.name for path in (home / "runs").iterdir()) if (home / "runs").exists() else []


def test_submit_writes_specs_that_read_back(still, home):
    specs = [make_spec("one", note="1e-3"), make_spec("two", steps=2)]
    assert still.submit(specs) == [1, 2]
    rows = still.jobs()
    assert [(r["run_id"], r["experiment"], r["name"], r["state"]) for r in rows] == [
        ("one", "first-abc123", "first", "queued"),
        ("two", "first-abc123", "first", "queued"),
    ]
    read = [RunSpec.model_validate(safe_yaml.loads((home / row["spec"]).read_bytes())) for row in rows]
    assert read == specs
    assert left_in(home) == ["one", "two"]


def test_a_refused_submit_leaves_nothing(still, home):
    still.submit([make_spec("one")])
    with pytest.raises(WorkbenchError, match="one has a folder already"):
        still.submit([make_spec("two"), make_spec("one"), make_spec("three")])
    assert (left_in(home), len(still.jobs())) == (["one"], 1)
    with pytest.raises(WorkbenchError, match="each with its own run id"):
        still.submit([make_spec("four"), make_spec("four")])
    with pytest.raises(WorkbenchError, match="at least one run"):
        still.submit([])
    with pytest.raises(WorkbenchError, match="run id must be"):
        still.submit([make_spec("../out")])
    assert (left_in(home), len(still.jobs())) == (["one"], 1)


@pytest.mark.parametrize("broken", ["sync_folder", "write_whole"])
def test_a_full_disk_while_submitting_leaves_nothing(still, home, monkeypatch, broken):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(client.wire, broken, fail)
    with pytest.raises(WorkbenchError, match="the disk is full"):
        still.submit([make_spec("one"), make_spec("two")])
    assert (left_in(home), still.jobs()) == ([], [])


def test_a_failing_store_leaves_no_folder(still, home, monkeypatch):
    def fail(*_):
        raise WorkbenchError("the job store is busy.")

    monkeypatch.setattr(Store, "add", fail)
    with pytest.raises(WorkbenchError, match="busy"):
        still.submit([make_spec("one")])
    assert left_in(home) == []


def test_without_a_daemon_nothing_is_queued(home, monkeypatch):
    def fail():
        raise WorkbenchError("the daemon could not be started.")

    monkeypatch.setattr(client, "ensure_daemon", fail)
    with pytest.raises(WorkbenchError, match="daemon"):
        client.submit([make_spec("one")])
    assert (left_in(home), client.jobs()) == ([], [])


def test_a_daemon_that_cannot_start_says_why(home):
    (home / "jobs.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(
        WorkbenchError,
        match=r"^the daemon could not be started: the job store .* not a database; put a copy back, or move it away",
    ):
        client.ensure_daemon()


def test_short_jobs_keep_their_request(still, home):
    job = still.submit_short("export", {"run": "one", "format": "peft", "name": "mine", "experiment": "first-abc123"})
    row = still.find(job)
    assert (row["kind"], row["name"], row["experiment"]) == ("export", "mine", "first-abc123")
    assert '"format": "peft"' in (home / row["spec"]).read_text()
    with pytest.raises(WorkbenchError, match=r"closest: export"):
        still.submit_short("exprt", {})
    with pytest.raises(WorkbenchError, match="plain values"):
        still.submit_short("export", {"what": object()})


def test_find_by_number_run_id_or_prefix(still):
    still.submit([make_spec("abc-1"), make_spec("abc-2"), make_spec("xyz")])
    assert [still.find(r)["run_id"] for r in (1, "2", "abc-1", "x")] == ["abc-1", "abc-2", "abc-1", "xyz"]
    with pytest.raises(WorkbenchError, match="fits 2: abc-1, abc-2"):
        still.find("abc")
    for missing in (99, "nothing", "", "9" * 40, "²"):
        with pytest.raises(WorkbenchError, match="no job is called"):
            still.find(missing)


def test_delete_forgets_all_but_live_jobs(still, home):
    still.submit([make_spec("one"), make_spec("two")])
    lock = home / "locks" / "run-two.lock"
    lock.touch()
    with Store(home / "jobs.db") as store:
        store.claim("cpu:0", ("train",))
    with pytest.raises(WorkbenchError, match="a live job cannot be deleted"):
        still.delete("one")
    still.delete("two")
    assert (left_in(home), [row["run_id"] for row in still.jobs()], lock.exists()) == (["one"], ["one"], False)


def test_delete_gives_tracking_a_moment(still, monkeypatch):
    monkeypatch.setattr(client, "TELL_WITHIN", 0.5)
    still.submit([make_spec("one"), make_spec("two")])
    with Store(client.jobs_db()) as store:
        for job in (1, 2):
            store.named(job, "ml")
            store.cancel(job)
        store.told(1, 1, "cancelled")
    begin = time.monotonic()
    still.delete(1)
    assert time.monotonic() - begin < 0.4
    still.delete(2)
    assert time.monotonic() - begin >= 0.5
    assert still.jobs() == []


def test_a_waiting_job_is_held_back_and_released(still):
    still.submit([make_spec("one")])
    assert still.pause("one")["state"] == "paused"
    for act, sentence in ((still.pause, "waits or runs can be paused; job 1 is paused"), (still.retry, "job 1 is paused")):
        with pytest.raises(WorkbenchError, match=sentence):
            act(1)
    row = still.resume(1)
    assert (row["state"], row["attempt"]) == ("queued", 2)
    with pytest.raises(WorkbenchError, match="only a paused job can be resumed; job 1 is queued"):
        still.resume("one")


def test_short_work_cannot_be_paused(still):
    job = still.submit_short("operate", {"name": "merge"})
    with pytest.raises(WorkbenchError, match=f"job {job} is of kind operate: cancel it instead"):
        still.pause(job)


def test_a_paused_training_goes_on_with_what_it_stored(queue, home):
    (job,) = queue.submit([make_spec("one", steps=40, seconds=0.05, keeps=True)])
    until(lambda: queue.find(job)["step"] >= 3)
    assert queue.pause(job)["intent"] == "pause"
    (row,) = queue.wait([job])
    assert (row["state"], row["intent"]) == ("paused", None)
    placed = json.loads((run_folder("one") / "placement.json").read_text())
    wire.write_json(run_folder("one") / "placement.json", {**placed, "threads": 3})
    stood = json.loads((run_folder("one") / "checkpoint" / "at.json").read_text())["step"]
    resumed = queue.resume(job)
    assert (resumed["attempt"], resumed["step"]) == (2, row["step"])
    (row,) = queue.wait([job])
    assert row["state"] == "finished"
    assert queue.verdict(job)["result"]["began_at"] == stood
    placed = json.loads((run_folder("one") / "placement.json").read_text())
    assert (placed["threads"], placed["attempt"]) == (3, 2)


def test_a_training_that_the_machine_took_down_is_queued_again_twice(queue, home, monkeypatch):
    """The kernel's name of this boot is changed in the placement, as a restart of the machine would."""
    (job,) = queue.submit([make_spec("one", steps=400, seconds=0.05, keeps=True)])
    for attempt in (1, 2, 3):
        row = until(lambda n=attempt: (r := queue.find(job))["state"] == "running" and r["attempt"] == n and r["step"] >= 1 and r)
        path = run_folder("one") / "placement.json"
        wire.write_json(path, {**json.loads(path.read_text()), "boot": "another"})
        os.kill(row["pid"], signal.SIGKILL)
    row = queue.wait([job])[0]
    assert (row["state"], row["attempt"]) == ("failed", 3)
    assert "killed by SIGKILL" in row["reason"]


def test_logs_before_the_start_are_empty(still):
    still.submit([make_spec("one")])
    assert still.logs("one") == ""
    assert still.verdict("one") is None
    (run_folder("one") / "train.log").write_bytes(b"\xff" * 10 + b"x" * 2_000_000)
    assert len(still.logs("one")) == client.LOG_BYTES


def test_interrupted_waiting_leaves_the_run(queue, home):
    (job,) = queue.submit([make_spec("one", steps=40, seconds=0.05)])

    def interrupt(rows):
        if rows[0]["state"] == "running":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        queue.wait([job], interrupt)
    assert queue.find(job)["state"] == "running"
    queue.cancel(job)
    assert queue.wait([job])[0]["state"] == "cancelled"
    assert queue.wait([]) == []


def test_a_client_killed_between_folders_and_rows_queued_nothing(home):
    script = (
        "import os, signal\nfrom tests.jobs.living import make_spec\nfrom workbench.jobs import client\n"
        "client.ensure_daemon = lambda: None\nreal = client.wire.sync_folder\n"
        "def die(folder):\n    real(folder)\n    folder.name == 'runs' and os.kill(os.getpid(), signal.SIGKILL)\n"
        "client.wire.sync_folder = die\nclient.submit([make_spec('one'), make_spec('two')])"
    )
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -9
    assert client.jobs() == []


def test_the_client_stays_light(home):
    script = (
        "import sys\nfrom workbench.jobs import client, engine\nclient.jobs()\n"
        "print(*sorted({'torch', 'transformers', 'peft', 'mlflow', 'pandas', 'streamlit', 'psutil'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_delete_while_the_worker_ends_is_refused(queue, home):
    (job,) = queue.submit([make_spec("one")])
    queue.wait([job])
    until(lambda: not is_held(run_lock(home, "one")))
    queue.delete(job)
    assert left_in(home) == []


@pytest.mark.parametrize("act", ["cancel", "pause", "resume", "retry"])
def test_what_was_granted_is_not_refused_because_somebody_deletes_the_job_at_that_moment(home, monkeypatch, act):
    monkeypatch.setattr(client, "ensure_daemon", lambda: None)
    (job,) = client.submit([make_spec("one")])
    with Store(client.jobs_db()) as store:
        {"resume": store.pause, "retry": store.cancel}.get(act, bool)(job)
    real = getattr(Store, act)

    def deleted(self, *given):
        done = real(self, *given)
        self.remove(job)
        return done

    monkeypatch.setattr(Store, act, deleted)
    assert getattr(client, act)(job)["run_id"] == "one"
    assert client.jobs() == []


def test_a_refusal_says_that_the_job_was_deleted(home, monkeypatch):
    monkeypatch.setattr(client, "ensure_daemon", lambda: None)
    (job,) = client.submit([make_spec("one")])
    row = client.find(job)
    monkeypatch.setattr(client, "find", lambda _: row)
    client.delete(job)
    for act, said in (
        ("cancel", "job 1 is deleted"),
        ("retry", "job 1 is deleted"),
        ("delete", "somebody else has just deleted job 1"),
    ):
        with pytest.raises(WorkbenchError, match=said):
            getattr(client, act)(job)
