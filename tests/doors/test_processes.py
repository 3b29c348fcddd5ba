"""A7, A8, A14: planted modules, hostile names and other users of the machine, with real processes and real modes."""

import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.house.test_budgets import OURS
from tests.jobs import living
from workbench.core import paths
from workbench.core.errors import WorkbenchError
from workbench.jobs import client, daemon, detach, engine
from workbench.services import files

PLANT = "import pathlib; pathlib.Path({!r}).write_text('ran')\n"
PLANTED = {
    "yaml": "yaml.py", "torch": "torch.py", "json": "json.py", "sitecustomize": "sitecustomize.py",
    "usercustomize": "usercustomize.py", "path file": "evil.pth", "pages": "pages/build.py", "workbench": "workbench/__init__.py",
}  # fmt: skip


@pytest.fixture(scope="module")
def trap(tmp_path_factory):
    """A folder with every planted module, as an adapter folder could have them, and the file that shows that one ran."""
    folder = tmp_path_factory.mktemp("trap")
    canary = folder.parent / "ran-code"
    for name in PLANTED.values():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(PLANT.format(str(canary)))
    return folder, canary


CALLS = {
    "command line": ["-P", "-m", "workbench", "jobs", "--json"],
    "command line without -P": ["-m", "workbench", "jobs", "--json"],
    "daemon": ["-P", "-m", "workbench.jobs.daemon", "status"],
    "worker": [*detach.python("workbench.jobs.worker")[1:], "/nowhere/runs/x"],
}


@pytest.mark.parametrize("call", CALLS)
def test_a7_modules_planted_in_the_current_folder_never_run(call, trap, tmp_path, record_property):
    record_property("cases", len(PLANTED))
    folder, canary = trap
    if "without" in call:  # the package itself is what was asked for by that name; the rest of the folder is not
        folder = tmp_path / "trap"
        folder.mkdir()
        for name in ("yaml.py", "torch.py", "json.py", "argparse.py", "pydantic.py", "evil.pth"):
            (folder / name).write_text(PLANT.format(str(canary)))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "WORKBENCH_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, *CALLS[call]], cwd=folder, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert not canary.exists(), done.stderr
    assert done.returncode == (3 if call == "worker" else 0), done.stderr
    assert not Path("/nowhere").exists(), "a worker made a home of its own"


def test_a7_our_processes_get_our_import_path_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    assert detach.environment()["PYTHONPATH"] == str(ROOT)
    assert detach.python("x")[1] == "-P"


def test_a7_every_process_we_start_has_a_safe_path():
    starts = re.compile(r"\[sys\.executable,(?! \"-P\")")
    assert [str(p.relative_to(ROOT)) for p in OURS if starts.search(p.read_text())] == []
    for line in re.findall(r"bin/python .*|\$\(BIN\)/python .*", (ROOT / "Makefile").read_text().replace("\\\n", " ")):
        assert "-P" in line or "-m pip" in line or "-m venv" in line, line


# --- A8 ------------------------------------------------------------------------------------------------------------------

INJECTIONS = {
    "semicolon": "a; touch CANARY", "and": "a && touch CANARY", "pipe": "a | touch CANARY", "substitution": "$(touch CANARY)",
    "backticks": "`touch CANARY`", "newline": "a\ntouch CANARY", "carriage return": "a\rtouch CANARY", "option": "--debug",
    "redirect": "a > CANARY", "glob": "*", "quote": "a'; touch CANARY; '", "double quote": 'a"; touch CANARY; "',
}  # fmt: skip


@pytest.mark.parametrize("case", INJECTIONS)
def test_a8_a_name_is_never_a_command(case, yard):
    name = INJECTIONS[case].replace("CANARY", str(yard.canary))
    for call in (lambda: paths.safe_name(name), lambda: paths.run_folder(name), lambda: client.submit_short(name, {})):
        yard.refused(call)
    yard.attacked(lambda: files.upload(name, b"x"))
    kept = list((yard.home / "uploads").rglob("*"))
    assert all(re.fullmatch(r"[A-Za-z0-9._+-]+", p.name) for p in kept)


def test_a8_a_home_with_a_hostile_name_runs_jobs_and_nothing_else(tmp_path, monkeypatch):
    canary = tmp_path / "canary"
    home = tmp_path / "h; touch canary; $(touch canary) `touch canary` \n'\" --debug"
    home.mkdir()
    monkeypatch.setenv("WORKBENCH_HOME", str(home))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client, "ensure_daemon", living.start_planted)
    try:
        job = client.submit([living.make_spec("a").model_copy(update={"label": "$(touch canary); `touch canary`"})])[0]
        assert client.wait([job])[0]["state"] == "finished"
    finally:
        daemon.stop()
        engine.stop(5)
    assert not canary.exists()
    assert not (home / "canary").exists()


def test_a8_no_shell_and_no_command_as_text():
    bad = re.compile(r"shell\s*=\s*True|os\.system\(|os\.popen\(|commands\.get|subprocess\.\w+\(\s*f?[\"']")
    assert [str(p.relative_to(ROOT)) for p in OURS if bad.search(p.read_text())] == []


# --- A14 -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lax():
    """The process runs with umask 000."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(top):
    """Path -> permission bits of everything below a folder, links and sockets too."""
    return {p: stat.S_IMODE(p.lstat().st_mode) for p in [top, *top.rglob("*")] if not p.is_symlink()}


def test_a14_nobody_else_can_enter_a_new_home_or_write_what_is_in_it(lax, tmp_path, record_property):
    record_property("cases", 3)
    home = tmp_path / "home"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "WORKBENCH_HOME": str(home), "WORKBENCH_IDLE_SECONDS": "60"}
    code = (
        "import os; from workbench.cli import main; main(['jobs']); from workbench.core import paths; paths.cache();"
        "from workbench.services import files; files.upload('a.csv', b'x');"
        "from workbench.jobs import client; client.ensure_daemon()"
    )
    try:
        subprocess.run([sys.executable, "-P", "-c", code], env=env, check=True, timeout=240, capture_output=True)
        deadline = time.monotonic() + 10
        while not (home / "daemon.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        found = modes(home)
    finally:
        subprocess.run([sys.executable, "-P", "-m", "workbench", "daemon", "stop"], env=env, check=True, capture_output=True)
    assert found[home] == 0o700
    assert {p.name for p in found} >= {"jobs.db", "daemon.json", "daemon.log", "locks", "uploads", "cache"}
    assert [str(p) for p, mode in found.items() if mode & 0o022] == []
    assert found[home / "jobs.db"] == 0o600


def test_a14_a_background_process_writes_for_its_owner_alone(lax, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    made = paths.home() / "made"

    def serve(ready):
        made.mkdir()
        ready()

    assert detach.detach(paths.home() / "daemon.log", serve) == 0
    assert stat.S_IMODE(made.stat().st_mode) & 0o022 == 0
    assert stat.S_IMODE((paths.home() / "daemon.log").stat().st_mode) == 0o600


def test_a14_a_home_that_anybody_may_write_is_refused(tmp_path, monkeypatch, record_property):
    record_property("cases", 2)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for folder in (tmp_path / "open", Path("/tmp")):
        monkeypatch.setenv("WORKBENCH_HOME", str(folder))
        with pytest.raises(WorkbenchError, match="writable by everyone"):
            paths.home()


def test_a14_a_folder_planted_for_our_socket_is_refused(tmp_path, monkeypatch, record_property):
    record_property("cases", 2)
    home = tmp_path / ("long" * 30)
    monkeypatch.setenv("WORKBENCH_HOME", str(home))
    place = engine.socket_path().parent
    try:
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        place.rmdir()
        place.symlink_to(tmp_path)
        with pytest.raises((WorkbenchError, OSError)):
            engine.socket_path()
        place.unlink()
        place.mkdir(mode=0o700)
        place.chmod(0o777)
        with pytest.raises(WorkbenchError, match="private folder"):
            engine.socket_path()
    finally:
        place.unlink() if place.is_symlink() else place.rmdir()


def test_a14_the_engines_socket_is_ours_alone(tmp_path, monkeypatch, lax):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    with engine._Engine(engine.socket_path(), engine.CALLS):
        assert stat.S_IMODE(engine.socket_path().stat().st_mode) == 0o600


def test_a14_locks_and_temporary_folders_are_private(tmp_path, lax, monkeypatch, record_property):
    record_property("cases", 3)
    import tempfile

    from workbench.core.locks import file_lock

    with file_lock(tmp_path / "a.lock"):
        assert stat.S_IMODE((tmp_path / "a.lock").stat().st_mode) == 0o600
    with tempfile.TemporaryDirectory(prefix="workbench-check-") as name:
        assert stat.S_IMODE(os.stat(name).st_mode) == 0o700
    fixed = re.compile(r"[\"']/tmp/|mktemp\(|Path\([\"']/tmp[\"']\)")
    assert [p.name for p in OURS if fixed.search(p.read_text())] == ["engine.py"]  # the folder tested above
