"""The queue's table: order, transactions, refused late writes, many processes at once."""

import json
import os
import sqlite3
import subprocess
import sys

import pytest

from workbench.core.errors import WorkbenchError
from workbench.core.paths import ROOT, jobs_db
from workbench.jobs.store import ENDED, NAME, SHORT_KINDS, Store


def row(run_id, kind="train", experiment="first-abc123", name="first"):
    return {"run_id": run_id, "experiment": experiment, "name": name, "kind": kind, "label": "lora", "method": "lora",
            "seed": 0, "spec": f"runs/{run_id}/spec.yaml"}  # fmt: skip


def python(script, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", script, *arguments], env=environment, stdout=subprocess.PIPE, text=True)


def test_jobs_are_claimed_in_order_and_by_kind(store):
    first, short, second = store.add([row("a"), row("b", "export"), row("c")])
    assert store.claim("cpu:0", ("train",))["job"] == first
    claimed = store.claim("short", SHORT_KINDS)
    assert (claimed["job"], claimed["slot"], claimed["state"]) == (short, "short", "starting")
    assert store.claim("short", SHORT_KINDS) is None
    assert store.claim("cpu:0", ("train",)) is None  # it is taken
    assert store.claim("cpu:1", ("train",))["job"] == second


def test_neighbours_are_flagged_for_all_that_live(store):
    jobs = store.add([row("a"), row("b", "export"), row("c")])
    assert store.claim("cpu:0", ("train",))["neighbours"] == 0
    assert store.claim("short", SHORT_KINDS)["neighbours"] == 1
    assert [r["neighbours"] for r in store.some(jobs)] == [1, 1, 0]


def test_a_submit_is_all_or_nothing(store):
    store.add([row("a")])
    with pytest.raises(WorkbenchError, match="already has such a run"):
        store.add([row("b"), row("a"), row("c")])
    assert [r["run_id"] for r in store.rows()] == ["a"]


def test_writes_of_a_stale_attempt_are_refused(store):
    (job,) = store.add([row("a")])
    store.claim("cpu:0", ("train",))
    assert not store.began(job, 2, 1, 1)
    assert store.began(job, 1, 1, 1)
    assert not store.began(job, 1, 1, 1)
    assert store.progress(job, 1, 5, 10)
    assert store.end(job, 1, "failed", "it broke.")
    assert not store.end(job, 1, "finished", None)
    assert store.retry(job, 1)
    assert not store.retry(job, 1)
    store.claim("cpu:0", ("train",))
    assert not store.began(job, 1, 1, 1)
    assert not store.end(job, 1, "failed", "late")
    assert store.began(job, 2, 1, 1)
    fresh = store.row(job)
    assert (fresh["state"], fresh["attempt"], fresh["step"], fresh["reason"]) == ("running", 2, 0, None)


def test_cancel_ends_waiting_jobs_and_asks_live_ones(store):
    waiting, live, over = store.add([row("a"), row("b"), row("c")])
    assert store.cancel(waiting)
    assert (store.row(waiting)["state"], store.row(waiting)["intent"]) == ("cancelled", None)
    store.claim("cpu:0", ("train",))
    assert store.cancel(live)
    assert (store.row(live)["state"], store.row(live)["intent"]) == ("starting", "cancel")
    assert store.cancel(over)
    assert not store.cancel(over)


def test_requeue_refuses_the_late_worker(store):
    (job,) = store.add([row("a")])
    store.claim("cpu:0", ("train",))
    assert store.requeue(job, 1)
    assert (store.row(job)["state"], store.row(job)["attempt"]) == ("queued", 2)
    assert not store.began(job, 1, 1, 1)


def test_live_jobs_cannot_be_removed(store):
    (job,) = store.add([row("a")])
    store.claim("cpu:0", ("train",))
    assert not store.remove(job)
    store.end(job, 1, "failed", "x")
    assert store.remove(job)
    assert store.row(job) is None


def test_a_bare_name_means_the_newest_experiment(store):
    store.add([row("a"), row("b", experiment="first-ffffff"), row("c", experiment="other-abc123", name="other")])
    assert [r["run_id"] for r in store.rows("first")] == ["b"]
    assert [r["run_id"] for r in store.rows("first-abc123")] == ["a"]
    assert store.rows("none") == []


def test_quiet_only_without_work(store, tmp_path):
    note = tmp_path / "note"
    note.touch()
    (job,) = store.add([row("a")])
    assert not store.quiet(note)
    assert note.exists()
    store.cancel(job)
    assert store.quiet(note)
    assert not note.exists()


def test_mlflow_is_told_each_end_once(store):
    never, ended = store.add([row("a"), row("b")])
    assert [r["job"] for r in store.unnamed()] == [never, ended]
    store.cancel(never)
    store.named(ended, "ml1")
    assert store.unnamed() == []  # a run cancelled before it began never existed there
    store.cancel(ended)
    assert [r["job"] for r in store.untold()] == [ended]
    store.told(ended, 1, "cancelled")
    assert store.untold() == []
    store.retry(ended, 1)
    assert store.row(ended)["told"] is None


def test_eight_processes_create_and_fill_it_at_once(home):
    script = (
        "import sys\nfrom pathlib import Path\nfrom workbench.jobs.store import Store\n"
        "with Store(Path(sys.argv[1])) as s:\n    for i in range(20):\n"
        "        row = dict(experiment='e', name='e', kind='train', label='', method='', seed=0, spec='')\n"
        "        s.add([{**row, 'run_id': f'{sys.argv[2]}-{i}'}])\n"
    )
    running = [python(script, str(home / NAME), str(i)) for i in range(8)]
    assert [process.wait(60) for process in running] == [0] * 8
    with sqlite3.connect(home / NAME) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("SELECT count(*), count(DISTINCT run_id) FROM jobs").fetchone() == (160, 160)
    assert (home / NAME).stat().st_mode & 0o077 == 0


def test_eight_processes_claim_each_job_once_and_in_order(store):
    numbers = store.add([row(f"r{i}") for i in range(120)])
    script = (
        "import json, sys\nfrom pathlib import Path\nfrom workbench.jobs.store import Store\nmine = []\n"
        "with Store(Path(sys.argv[1])) as s:\n"
        "    while row := s.claim(f'{sys.argv[2]}-{len(mine)}', ('train',)):\n        mine.append(row['job'])\n"
        "print(json.dumps(mine))"
    )
    running = [python(script, str(store.path), str(i)) for i in range(8)]
    claimed = [json.loads(process.communicate(timeout=60)[0]) for process in running]
    assert sorted(job for mine in claimed for job in mine) == numbers
    assert all(mine == sorted(mine) for mine in claimed)


def test_only_the_standard_library_is_imported_before_started():
    script = (
        "import sys\nbefore = set(sys.modules)\nimport workbench.jobs.worker\n"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)\nprint(*sorted(new))"
    )
    assert python(script).communicate(timeout=30)[0].split() == ["workbench"]


def test_a_damaged_or_foreign_store_is_named(home):
    (home / NAME).write_bytes(b"this is no database" * 100)
    with pytest.raises(
        WorkbenchError, match=r"jobs\.db cannot be used: file is not a database; put a copy back, or move it away"
    ):
        Store(home / NAME)
    (home / NAME).unlink()
    with sqlite3.connect(home / NAME) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(WorkbenchError, match="of schema 99"):
        Store(home / NAME)


def test_a_busy_store_says_so(store):
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with Store(store.path, patience=0.1) as hurried, pytest.raises(WorkbenchError, match="locked; another process holds it"):
        hurried.add([row("a")])
    other.execute("ROLLBACK")
    other.close()
    assert store.add([row("a")]) == [1]


def test_one_fact_one_place(home):
    assert jobs_db() == home / NAME
    assert set(ENDED) == {"finished", "failed", "cancelled"}


@pytest.mark.parametrize(("wish", "state"), [("cancel", "cancelled"), ("pause", "paused"), (None, "queued")])
def test_what_was_asked_of_a_job_holds_when_its_worker_never_came_to_life(store, wish, state):
    (job,) = store.add([row("a")])
    store.claim("cpu:0", ("train",))
    if wish:
        assert getattr(store, wish)(job)
    assert store.requeue(job, 1)
    found = store.row(job)
    assert (found["state"], found["intent"], found["attempt"]) == (state, None, 2)
    assert (found["ended"] is not None) == (state == "cancelled")


def test_a_cancel_that_comes_while_a_worker_pauses_is_kept(store):
    (job,) = store.add([row("a")])
    store.claim("cpu:0", ("train",))
    store.pause(job)
    store.cancel(job)  # granted, after the worker has seen the pause
    assert store.end(job, 1, "paused", None)
    assert (store.row(job)["state"], store.row(job)["reason"]) == ("cancelled", "cancelled on request")


@pytest.mark.parametrize("act", ["pause", "cancel"])
def test_a_wish_is_one_transaction(store, act):
    """In two, a job that is put back between them would be refused by both, although it is not over."""
    (job,) = store.add([row("a")])
    store.claim("cpu:0", ("train",))
    said = []
    store._db.set_trace_callback(said.append)
    assert getattr(store, act)(job)
    assert said.count("BEGIN IMMEDIATE") == 1


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (sqlite3.SQLITE_BUSY, "another process holds it for long: try again"),
        (sqlite3.SQLITE_FULL, "free the disk"),
        (sqlite3.SQLITE_READONLY, "make it and its folder writable for you"),
        (sqlite3.SQLITE_IOERR_FSYNC, "the disk does not work: look after it and try again"),
        (sqlite3.SQLITE_CORRUPT, "put a copy back, or move it away and submit again"),
        (sqlite3.SQLITE_ERROR, "put a copy back, or move it away and submit again"),
    ],
)
def test_every_error_of_the_database_has_its_advice(store, code, advice):
    error = sqlite3.OperationalError("what SQLite says")
    error.sqlite_errorcode = code
    with pytest.raises(WorkbenchError, match=rf"jobs\.db cannot be used: what SQLite says; {advice}\.$"), store._explained():
        raise error


def test_a_store_that_may_not_be_written_says_so(store):
    store._db.execute("PRAGMA query_only=1")
    with pytest.raises(WorkbenchError, match="readonly database; make it and its folder writable for you"):
        store.add([row("a")])
