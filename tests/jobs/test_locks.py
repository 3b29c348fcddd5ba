"""What a lock says must be what the kernel knows."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.jobs.living import until
from workbench.core.locks import Alive, file_lock, is_held
from workbench.core.paths import ROOT


@pytest.fixture
def owner(tmp_path):
    """Starts a process that takes `tmp_path/lock`, runs some code, says its pid and sleeps."""
    started = []

    def start(code=""):
        script = (
            f"import os, subprocess, sys, time\nfrom pathlib import Path\nfrom workbench.core.locks import Alive\n"
            f"lock = Alive(Path({str(tmp_path / 'lock')!r}))\nassert lock.take()\nother = 0\n{code}\n"
            "print(other, flush=True)\ntime.sleep(60)"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
        )
        started.append(process.pid)
        other = int(process.stdout.readline())
        if other:
            started.append(other)
        return process, other

    yield start
    for pid in started:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_held_is_seen_without_taking(tmp_path):
    lock, second = Alive(tmp_path / "lock"), Alive(tmp_path / "lock")
    assert not is_held(tmp_path / "lock")
    assert lock.take()
    assert is_held(tmp_path / "lock")
    assert not second.take()
    assert not second.take(wait=0.1)
    lock.release()
    assert not is_held(tmp_path / "lock")
    assert second.take()
    second.release()


def test_own_reading_does_not_drop_it(owner, tmp_path):
    lock = Alive(tmp_path / "lock")
    assert lock.take()
    (tmp_path / "lock").read_bytes()
    with open(tmp_path / "lock", "r+b") as file:
        file.write(b"pid")
    assert is_held(tmp_path / "lock")
    lock.release()


def test_kill_frees_it_at_once(owner, tmp_path):
    process, _ = owner()
    assert is_held(tmp_path / "lock")
    process.kill()
    process.wait()
    assert not is_held(tmp_path / "lock")


@pytest.mark.parametrize(
    "code",
    [
        "other = os.fork()\nif not other:\n    time.sleep(60)",
        "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], stdout=subprocess.DEVNULL).pid",
        "import multiprocessing as m\np = m.get_context('fork').Process(target=time.sleep, args=(60,))\np.start(); other = p.pid",
    ],
    ids=["forked", "executed", "multiprocessing"],
)
def test_children_do_not_keep_it(owner, tmp_path, code):
    process, child = owner(code)
    process.kill()
    process.wait()
    os.kill(child, 0)  # the child lives on
    assert not is_held(tmp_path / "lock")


def test_a_child_of_the_holder_cannot_free_it(tmp_path):
    with file_lock(tmp_path / "lock"):
        child = os.fork()
        if not child:
            os._exit(0 if is_held(tmp_path / "lock") else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert is_held(tmp_path / "lock")
    assert not is_held(tmp_path / "lock")


def test_leaving_the_body_in_a_forked_child_is_harmless(tmp_path):
    child = None
    with file_lock(tmp_path / "lock"):
        child = os.fork()
        if child:
            time.sleep(0.2)
            held = is_held(tmp_path / "lock")
    if not child:
        os._exit(0)
    assert held
    assert os.waitpid(child, 0)[1] == 0


def test_file_lock_excludes_processes(tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    script = (
        "import sys\nfrom pathlib import Path\nfrom workbench.core.locks import file_lock\n"
        "folder = Path(sys.argv[1])\nfor _ in range(100):\n    with file_lock(folder / 'lock'):\n"
        "        value = int((folder / 'counter').read_text())\n        (folder / 'counter').write_text(str(value + 1))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=environment) for _ in range(4)]
    assert [process.wait(30) for process in running] == [0] * 4
    assert counter.read_text() == "400"


def test_file_lock_excludes_threads(tmp_path):
    inside, most = 0, 0

    def enter():
        nonlocal inside, most
        with file_lock(tmp_path / "lock"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.02)
            inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == 1


def test_intact_notices_a_deleted_or_replaced_file(tmp_path):
    lock = Alive(tmp_path / "folder" / "lock")
    assert not lock.intact()
    assert lock.take()
    assert lock.intact()
    lock.path.unlink()
    assert not lock.intact()
    lock.path.touch()
    assert not lock.intact()
    lock.release()


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "target").touch()
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic"):
        Alive(tmp_path / "lock").take()


def test_waiting_ends_when_the_owner_dies(owner, tmp_path):
    process, _ = owner()
    threading.Timer(0.3, process.kill).start()
    lock = Alive(tmp_path / "lock")
    assert lock.take(wait=10)
    lock.release()
    until(lambda: process.poll() is not None)
