"""The daemon: one background process per home, by lock, that runs the queue (see `loop`).

`python -m workbench.jobs.daemon start|stop|status`.
"""

import contextlib
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from workbench.core.errors import WorkbenchError
from workbench.core.locks import Alive, is_held
from workbench.core.paths import home, jobs_db, locks
from workbench.jobs import cluster, detach, processes, wire
from workbench.jobs.loop import PATIENCE, WORKER, Loop, say
from workbench.jobs.record import Recorder
from workbench.jobs.store import Store


def ready_file() -> Path:
    """`daemon.json`, written by a daemon that is ready; trusted only while its lock is held."""
    return home() / "daemon.json"


def _lock_file() -> Path:
    return locks() / "daemon.lock"


def status() -> dict[str, Any]:
    """`{running, pid, code, started, stale}` of this home's daemon; `running` means ready to take jobs."""
    note = wire.read_json(ready_file()) if is_held(_lock_file()) else None
    if note is None or not processes.alive(note.get("pid"), note.get("pid_created")):
        return {"running": False, "pid": None, "code": None, "started": None, "stale": False}
    shown = {name: note.get(name) for name in ("pid", "code", "started")}
    stale = note.get("code") != detach.code_stamp() or note.get("ray", "") != cluster.address()
    return {"running": True, **shown, "stale": stale}


def serve(
    ready: Callable[[], None], worker: Sequence[str] = WORKER, patience: Sequence[float] = PATIENCE, record: bool = True
) -> None:
    """Be the daemon of this home, or return at once if another one is ready."""
    lock, deadline = Alive(_lock_file()), time.monotonic() + 30
    while not lock.take():
        if status()["running"]:
            ready()
            return
        if time.monotonic() > deadline:
            raise WorkbenchError(f"another daemon holds {_lock_file()} but is not ready; stop that process and try again.")
        time.sleep(0.05)
    ready_file().unlink(missing_ok=True)  # left by a killed daemon
    pid, code = os.getpid(), detach.code_stamp()
    note = {"pid": pid, "pid_created": processes.created(pid), "code": code, "ray": cluster.address(), "started": time.time()}
    with Store(jobs_db()) as store:
        sound(store.path)
        loop = Loop(store, lock, ready_file(), worker, patience)
        loop.reconcile()
        if record:
            Recorder(jobs_db()).start()
        wire.write_json(ready_file(), note)
        ready()
        say(f"ready with slots {', '.join(slot.name for slot in loop.slots)}")
        loop.run()
    if lock.intact():
        ready_file().unlink(missing_ok=True)


def sound(path: Path) -> None:
    """Look through the whole queue once; a damaged one is left as it is and never worked on.

    Raises:
        WorkbenchError: what is wrong with it.
    """
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as db:
        try:
            found = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        except sqlite3.DatabaseError as error:
            found = str(error)
    if found != "ok":
        raise WorkbenchError(f"the job store {path} is damaged ({found}); put a copy back, or move it away and submit again.")


def start() -> int:
    """Start the daemon in the background and return 0 once it is ready (or already was)."""
    return detach.detach(home() / "daemon.log", serve)


def stop(patience: float = 10.0) -> bool:
    """Stop the daemon; its workers go on and the next daemon adopts them. False if none was running.

    Raises:
        WorkbenchError: it does not end.
    """
    pid = status()["pid"]
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while is_held(_lock_file()):
        if time.monotonic() > deadline:
            raise WorkbenchError(f"the daemon must end within {patience:.0f} seconds of SIGTERM; kill process {pid}.")
        time.sleep(0.02)
    return True


def main(arguments: Sequence[str]) -> int:
    """`start`, `stop` or `status`."""
    match list(arguments):
        case ["start"]:
            return start()
        case ["stop"]:
            print("stopped" if stop() else "no daemon was running")
        case ["status"]:
            print(status())
        case _:
            print("usage: python -m workbench.jobs.daemon start|stop|status", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
