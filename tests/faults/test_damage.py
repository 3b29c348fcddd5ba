"""F6: a damaged, foreign, busy or copied queue is named in a sentence and left as it is, or it is whole; never mended unseen."""

import random
import shutil
import sqlite3
import subprocess
import sys

import pytest

from tests.faults import grid, invariants
from tests.jobs.living import make_spec, until
from workbench.core.errors import WorkbenchError
from workbench.jobs import client, daemon, detach, schema
from workbench.jobs.store import NAME, Store


@pytest.fixture
def filled(home, monkeypatch):
    """A home with 60 queued jobs, at rest: one file, no -wal."""
    monkeypatch.setattr(client, "ensure_daemon", lambda: None)
    client.submit([make_spec(f"run{n:02}") for n in range(60)])
    return home


def looked_at(path):
    """What a client sees: the rows, or the sentence."""
    try:
        with Store(path, patience=0.2) as store:
            return store.rows()
    except WorkbenchError as error:
        said = str(error)
    assert invariants.i10_sentence(said, "the job store", NAME) == []
    return said


def refused_by_the_daemon(home):
    """The sentence with which no daemon starts."""
    with pytest.raises(WorkbenchError) as error:
        detach.launch([*grid.PLANTED, "daemon"], "daemon", lambda: False)
    assert not daemon.status()["running"]
    assert invariants.i10_sentence(str(error.value), "the daemon could not be started", NAME) == []
    return str(error.value)


def test_a_damaged_queue_is_named_and_left(filled, record_property):
    record_property("F6", 4)
    path = filled / NAME
    whole = path.read_bytes()
    with Store(path) as store:  # an index that no daemon reads when it starts
        query = "SELECT rootpage FROM sqlite_master WHERE name='jobs_by_experiment'"
        page, size = (
            store._db.execute(query).fetchone()["rootpage"],
            store._db.execute("PRAGMA page_size").fetchone()["page_size"],
        )
    unread = whole[: size * (page - 1)] + b"\0" * size + whole[size * page :]
    for damaged in (b"x" * 4096, whole[: len(whole) // 2], whole[:-5000], unread):
        path.write_bytes(damaged)
        said = refused_by_the_daemon(filled)
        assert "damaged" in said or "cannot be used" in said
        assert path.read_bytes() == damaged
        looked_at(path)
    path.write_bytes(whole)
    assert len(looked_at(path)) == 60


def test_an_emptied_queue_is_named_and_left(filled, record_property):
    record_property("F6", 1)
    path = filled / NAME
    path.write_bytes(b"")
    for name in ("-wal", "-shm"):
        path.with_name(NAME + name).unlink(missing_ok=True)
    assert "is empty, and there are runs beside it" in looked_at(path)
    assert "is empty, and there are runs beside it" in refused_by_the_daemon(filled)
    assert path.read_bytes() == b""
    path.unlink()  # as the sentence advises
    assert looked_at(path) == []


def test_a_first_start_that_was_killed_before_its_schema_is_taken_up(home):
    (home / "runs").mkdir()
    (home / NAME).touch()
    with Store(home / NAME) as store:
        assert store.rows() == []


@pytest.mark.parametrize("seed", range(16))
def test_a_flipped_bit_is_named_or_harms_no_structure(filled, seed, record_property):
    record_property("F6", 1)
    path, rng = filled / NAME, random.Random(seed)
    damaged = bytearray(path.read_bytes())
    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    path.write_bytes(damaged)
    seen = looked_at(path)
    assert isinstance(seen, str) or len(seen) <= 60
    said = ""
    try:
        daemon.sound(path)
    except WorkbenchError as error:
        said = str(error)
    if not said:
        assert invariants.i6_databases(filled) == []
    else:
        assert invariants.i10_sentence(said, "is damaged") == []
        assert path.read_bytes() == bytes(damaged)


def test_a_lost_or_foreign_wal_gives_an_older_queue_and_never_a_mixed_one(home, monkeypatch, record_property):
    record_property("F6", 2)
    monkeypatch.setattr(client, "ensure_daemon", lambda: None)
    path, wal = home / NAME, home / f"{NAME}-wal"
    with Store(path) as keeps_it_open:
        client.submit([make_spec("first")])
        older = wal.read_bytes()
        keeps_it_open._db.execute("PRAGMA wal_checkpoint(RESTART)")
        client.submit([make_spec("second")])
        copy = home.parent / "copy"
        copy.mkdir()
        (copy / "locks").mkdir()
        for name in ("lost", "foreign"):
            shutil.copy(path, copy / name)
    (copy / "foreign-wal").write_bytes(older)
    for name in ("lost", "foreign"):
        with Store(copy / name) as store:
            assert [row["run_id"] for row in store.rows()] == ["first"]
            assert store._db.execute("PRAGMA integrity_check").fetchone() == {"integrity_check": "ok"}


@pytest.mark.parametrize("version", [schema.VERSION + 1, 99])
def test_a_queue_of_a_later_version_is_named_and_left(filled, version, record_property):
    record_property("F6", 1)
    path = filled / NAME
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={version}")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    before = path.read_bytes()
    assert f"of schema {version}" in looked_at(path)
    assert f"of schema {version}" in refused_by_the_daemon(filled)
    assert path.read_bytes() == before


def test_an_exclusive_holder_is_named_and_waited_for(planted_home, record_property):
    record_property("F6", 1)
    grid.start(planted_home)
    (job,) = client.submit([make_spec("one", seconds=0.05)])
    holder = sqlite3.connect(planted_home / NAME, isolation_level=None)
    until(lambda: holder.execute("BEGIN EXCLUSIVE"), 10)
    with (
        Store(planted_home / NAME, patience=0.1) as hurried,
        pytest.raises(WorkbenchError, match="locked; another process holds it"),
    ):
        hurried.cancel(job)
    holder.execute("ROLLBACK")
    holder.close()
    until(lambda: grid.rows(planted_home)["one"]["state"] == "finished", grid.PATIENCE)
    assert invariants.settled(planted_home, grid.PATIENCE, acknowledged=["one"]) == []


def test_a_copy_of_a_living_queue_is_whole_or_named(home, monkeypatch, record_property):
    record_property("F6", 5)
    monkeypatch.setattr(client, "ensure_daemon", lambda: None)
    script = (
        "from workbench.jobs import client\nfrom tests.jobs.living import make_spec\nclient.ensure_daemon = lambda: None\n"
        "for n in range(10**6):\n    client.submit([make_spec(f'r{n}')])\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script], env=detach.environment(), cwd=detach.ROOT)
    try:
        for n in range(5):
            until(lambda n=n: (home / NAME).exists() and len(invariants.rows(home)) > 3 * n, grid.PATIENCE)
            there = home.parent / f"copy{n}"
            (there / "locks").mkdir(parents=True)
            for path in home.glob(f"{NAME}*"):
                shutil.copy(path, there)
            seen = looked_at(there / NAME)
            if not isinstance(seen, str):
                assert [row["job"] for row in seen] == list(range(1, len(seen) + 1))
    finally:
        writer.kill()
        writer.wait()
    assert invariants.i6_databases(home) == []


@pytest.mark.slow
def test_eight_first_submits_at_once_all_count(home, record_property):
    record_property("F6", 1)
    asked = [grid.ask(home, "submit", f"run{n}") for n in range(8)]
    for one in asked:
        one.communicate(timeout=120)
    assert [one.returncode for one in asked] == [0] * 8
    names = [f"run{n}" for n in range(8)]
    until(lambda: all(row["state"] == "finished" for row in invariants.rows(home)), 120)
    assert invariants.settled(home, grid.PATIENCE, acknowledged=names) == []
    daemons = [words for _, words in invariants._commands(home) if words[-1] == "daemon"]
    assert len(daemons) == 1
