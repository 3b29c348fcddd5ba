"""A home of its own for every test, planted background processes, and a check that nothing is left running."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.jobs.living import processes_of, start_planted
from workbench.jobs import client, daemon, engine
from workbench.jobs.store import Store


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A fresh home; afterwards daemon and engine are stopped, and nothing else may be left."""
    folder = (tmp_path / "home").resolve()
    folder.mkdir()
    monkeypatch.setenv("WORKBENCH_HOME", str(folder))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    yield folder
    if folder.exists():
        daemon.stop()
        engine.stop(5)
    deadline = time.monotonic() + 5
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_of(folder)}
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"left running: {left}"


@pytest.fixture
def queue(home, monkeypatch):
    """The client, its daemon being the planted one."""
    monkeypatch.setattr(client, "ensure_daemon", start_planted)
    return client


@pytest.fixture
def store(home):
    """An open store."""
    with Store(home / "jobs.db") as opened:
        yield opened
