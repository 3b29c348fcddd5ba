"""F1 and F2 of the engine: shaken while it works, it answers or one sentence is said, and the next question is answered."""

import contextlib
import os
import signal
import threading

import pytest

from tests.faults import invariants
from tests.jobs.living import planted_engine
from workbench.core.errors import WorkbenchError


@pytest.fixture
def planted(home, monkeypatch):
    """The engine's client, starting the planted engine."""
    return planted_engine(monkeypatch)


def shaken(pid, name):
    """Send the signal; a stopped process goes on a moment later."""
    with contextlib.suppress(ProcessLookupError):  # an earlier signal of the same test may have ended it
        os.kill(pid, signal.Signals[f"SIG{name}"])
        if name == "STOP":
            threading.Timer(0.3, os.kill, (pid, signal.SIGCONT)).start()


@pytest.mark.parametrize(
    "name", ["KILL", *(pytest.param(n, marks=pytest.mark.slow) for n in ("TERM", "INT", "STOP", "SEGV", "ABRT"))]
)
@pytest.mark.parametrize("when", [pytest.param("idle", marks=pytest.mark.slow), "working"])
def test_a_shaken_engine_answers_or_says_so(name, when, planted, home, record_property):
    record_property("F1" if name == "KILL" else "F2", 1)
    pid = planted.ask("ping")["pid"]
    if when == "idle":
        shaken(pid, name)
    else:
        threading.Timer(0.2, shaken, (pid, name)).start()
    said = ""
    try:
        assert planted.ask("nap", {"seconds": 1.0})["slept"] == 1.0
    except WorkbenchError as error:
        said = str(error)
    if said:
        assert invariants.i10_sentence(said, "the engine stopped while it worked on 'nap'") == []
    assert planted.ask("ping")["pid"] > 0
    assert invariants.settled(home) == []
