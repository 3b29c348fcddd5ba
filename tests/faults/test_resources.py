"""F5: disk, files, memory and folders run out or go while a job runs: one true sentence, and a retry ends as usual."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import invariants, scarce
from tests.jobs.living import make_spec, until
from workbench.core.errors import WorkbenchError
from workbench.core.paths import keep_others_out, run_folder
from workbench.jobs import client, daemon

LIMIT = 60.0


@pytest.fixture
def scarcity(planted_home, monkeypatch) -> Path:
    """The planted home with the daemon that lets things run out."""
    monkeypatch.setattr(client, "ensure_daemon", scarce.start)
    return planted_home


def mounted(folder: Path, options: str) -> None:
    """A tmpfs of its own; skips where nothing may be mounted."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("nothing may be mounted here")


@pytest.fixture
def small(planted_home, tmp_path, monkeypatch) -> Iterator[Callable[[str], Path]]:
    """small(options) -> a copy of the planted home on a tmpfs of its own."""
    where = tmp_path / "small"

    def make(options: str) -> Path:
        mounted(where, options)
        shutil.copytree(planted_home, where / "home")
        monkeypatch.setenv("WORKBENCH_HOME", str(where / "home"))
        monkeypatch.setattr(client, "ensure_daemon", scarce.start)
        return where / "home"

    yield make
    if where.is_mount():
        daemon.stop()
        subprocess.run(["umount", "-l", str(where)], check=True)


def ended(job: int) -> dict:
    return until(lambda: (row := client.find(job))["state"] in invariants.RESTING and row, LIMIT)


def again(home: Path, job: int, name: str) -> None:
    """A retry ends like the run that nothing happened to, and the home is whole."""
    client.retry(job)
    row = ended(job)
    assert (row["state"], row["attempt"]) == ("finished", 2), row["reason"]
    assert invariants.settled(home, LIMIT, acknowledged=[name]) == []
    assert invariants.i5_taken_up_again(run_folder(name), run_folder("reference")) == []


@pytest.mark.parametrize(("fault", "said"), [
    ("files", "Too many open files"),
    pytest.param("file_size", "File too large", marks=pytest.mark.slow),
    pytest.param("memory", "ran out of memory", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_worker_that_may_have_no_more(scarcity, fault, said, record_property):
    record_property("F5", 1)
    (job,) = client.submit([make_spec("one", fault=fault)])
    row = ended(job)
    assert row["state"] == "failed"
    assert invariants.i10_sentence(row["reason"], said) == []
    again(scarcity, job, "one")


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "options"), [("full", "size=4m"), ("inodes", "size=64m,nr_inodes=300")])
def test_a_disk_that_takes_no_more(small, fault, options, record_property):
    record_property("F5", 1)
    home = small(options)
    (job,) = client.submit([make_spec("one", fault=fault)])
    until(lambda: _over(home), LIMIT)
    filler = home / scarce.FILLER
    shutil.rmtree(filler) if filler.is_dir() else filler.unlink()
    row = ended(job)
    assert row["state"] == "failed"
    assert invariants.i10_sentence(row["reason"], "disk is full") == []
    again(home, job, "one")


def _over(home: Path) -> bool:
    """Whether the fault has happened and the worker is gone."""
    return (home / scarce.FILLER).exists() and not invariants.is_held(invariants.run_lock(home, "one"))


@pytest.mark.slow
def test_a_run_folder_that_becomes_read_only(scarcity, record_property):
    if not immutable(scarcity):
        pytest.skip("chattr +i does not work here")
    record_property("F5", 1)
    (job,) = client.submit([make_spec("one", fault="read_only")])
    try:
        row = ended(job)
    finally:
        subprocess.run(["chattr", "-i", str(run_folder("one"))], check=True)
    assert row["state"] == "failed"
    assert invariants.i10_sentence(row["reason"], "Operation not permitted") == []
    again(scarcity, job, "one")


def immutable(folder: Path) -> bool:
    """Whether files can be made immutable here."""
    (folder / "probe").touch()
    done = [subprocess.run(["chattr", sign, str(folder / "probe")], capture_output=True, check=False) for sign in ("+i", "-i")]
    (folder / "probe").unlink()
    return not any(one.returncode for one in done)


@pytest.mark.slow
def test_a_submit_on_a_full_disk_is_refused_and_leaves_nothing(small, record_property):
    record_property("F5", 1)
    home = small("size=4m")
    scarce.start()
    scarce.full(home)
    with pytest.raises(WorkbenchError) as told:
        client.submit([make_spec("one")])
    assert invariants.i10_sentence(str(told.value)) == []
    assert "full" in str(told.value) or "No space left" in str(told.value)
    (home / scarce.FILLER).unlink()
    assert [row["run_id"] for row in client.jobs()] == ["reference"]
    assert invariants.settled(home, LIMIT) == []
    (job,) = client.submit([make_spec("one")])
    assert ended(job)["state"] == "finished"


def test_a_run_folder_that_goes_while_it_runs(scarcity, record_property):
    record_property("F5", 1)
    (job,) = client.submit([make_spec("one", fault="folder_gone")])
    row = ended(job)
    assert row["state"] == "failed"
    assert invariants.i10_reasons(scarcity) == []
    client.retry(job)
    row = ended(job)
    assert row["state"] == "failed"
    assert invariants.i10_sentence(row["reason"], "submit") == []
    client.delete(job)
    assert invariants.settled(scarcity, LIMIT) == []


@pytest.mark.slow
def test_a_run_folder_that_goes_while_it_waits(scarcity, record_property):
    record_property("F5", 1)
    first, second = client.submit([make_spec("one", seconds=0.3), make_spec("two")])
    shutil.rmtree(run_folder("two"))
    assert (ended(first)["state"], ended(second)["state"]) == ("finished", "failed")
    assert invariants.i10_reasons(scarcity) == []
    client.delete(second)
    assert invariants.settled(scarcity, LIMIT, acknowledged=["one"]) == []


@pytest.mark.slow
def test_a_log_that_goes_while_it_runs_ends_nothing(scarcity, record_property):
    record_property("F5", 1)
    (job,) = client.submit([make_spec("one", fault="log_gone")])
    assert ended(job)["state"] == "finished"
    assert invariants.settled(scarcity, LIMIT, acknowledged=["one"]) == []


@pytest.mark.slow
def test_a_home_that_goes_takes_daemon_and_worker_with_it(scarcity, record_property):
    record_property("F5", 1)
    (job,) = client.submit([make_spec("one", seconds=5.0)])
    until(lambda: client.find(job)["state"] == "running", LIMIT)
    os.rename(scarcity, scarcity.with_name("gone"))
    until(lambda: not invariants.processes_of(scarcity), LIMIT)


@pytest.mark.parametrize("mask", [0o077, pytest.param(0o000, marks=pytest.mark.slow)])
def test_whatever_the_umask_the_home_works_and_nobody_else_may_write(scarcity, mask, monkeypatch, record_property):
    record_property("F5", 1)
    monkeypatch.setenv("UMASK", f"{mask:o}")
    before = os.umask(mask)
    keep_others_out()  # as the command line does
    try:
        (job,) = client.submit([make_spec("one")])
        assert ended(job)["state"] == "finished"
        files = [*(scarcity / "runs" / "one").rglob("*"), scarcity / "runs" / "one"]
        open_ones = [str(path) for path in files if path.lstat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)]
        private = [path for path in (scarcity / "jobs.db", scarcity / "daemon.log") if path.stat().st_mode & 0o077]
    finally:
        os.umask(before)
    assert (open_ones, private) == ([], [])
    assert invariants.settled(scarcity, LIMIT, acknowledged=["one"]) == []
