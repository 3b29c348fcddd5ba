"""Starting planted background processes, waiting for them, and finding what is left of them."""

import os
import socket
import sys
import time
from pathlib import Path

from workbench.core.run_spec import DataRef, ModelRef, RunSpec
from workbench.core.spec import TrainingSpec
from workbench.jobs import daemon, detach, engine

PLANTED = [sys.executable, "-P", str(Path(__file__).with_name("planted.py"))]


def processes_of(home: Path) -> list[int]:
    """Processes other than this one that were started for a home."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                environment = Path(f"/proc/{entry}/environ").read_bytes()
            except OSError:
                continue
            if f"WORKBENCH_HOME={home}".encode() in environment.split(b"\0"):
                found.append(int(entry))
    return found


def until(condition, seconds=10.0):
    """Wait for a true value and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {condition}")


def start_planted(what="daemon"):
    """Start the planted daemon or engine, as `ensure_daemon` would."""
    ready = (lambda: daemon.status()["running"]) if what == "daemon" else engine.running
    if not ready():
        detach.launch([*PLANTED, what], what, ready)


def make_spec(run_id: str, experiment: str = "first-abc123", **config) -> RunSpec:
    """A RunSpec for the planted training."""
    return RunSpec(
        run_id=run_id,
        experiment=experiment,
        label="lora",
        method="lora",
        base_method="lora",
        config=config,
        model=ModelRef(source="bundled/minilm"),
        task="text_classification",
        data=DataRef(source="bundled/docstrings"),
        training=TrainingSpec(),
    )


def planted_engine(monkeypatch):
    """The engine's client, which starts the planted engine."""
    monkeypatch.setattr(engine, "START", tuple(PLANTED))
    monkeypatch.setattr(detach, "code_stamp", lambda: "planted")
    real = detach.launch
    monkeypatch.setattr(detach, "launch", lambda command, what, ready: real([*PLANTED, "engine"], what, ready))
    return engine


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
