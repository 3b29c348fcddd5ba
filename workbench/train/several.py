"""One training in several processes that share every batch: the worker's side.

`accelerate launch` starts the ranks (see `rank`). Each keeps a connection to this process: the first one's carries events here
and wishes there, and a rank whose connection ends leaves at once, because its launcher puts it into a session of its own.
"""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, Listener, wait
from pathlib import Path
from types import MappingProxyType
from typing import Any

from workbench.core.errors import WorkbenchError
from workbench.core.events import Evaluated, Event, Measured, Phase, Reporter, Saved, Started, Step, Stopped
from workbench.core.paths import ROOT
from workbench.core.run_spec import Placed, RunSpec

POLL, LEAVE_WITHIN = 0.2, 30.0  # seconds
DOOR, WORK, KEY = "door", "work.json", "WORKBENCH_RANKS_KEY"
EVENTS = MappingProxyType({cls.__name__.lower(): cls for cls in (Started, Phase, Step, Evaluated, Measured, Saved)})


def say(line: Connection, what: str, value: Any = None) -> None:
    """Send one message as JSON."""
    line.send_bytes(json.dumps([what, value], default=lambda v: v.tolist() if hasattr(v, "tolist") else str(v)).encode())


def hear(line: Connection) -> tuple[str, Any]:
    """The next message; waits for it.

    Raises:
        EOFError: the other side is gone.
    """
    what, value = json.loads(line.recv_bytes())
    return what, value


def _event(record: dict[str, Any]) -> Event:
    return EVENTS[record.pop("event")](**record)


def _error(name: str, text: str, ours: bool) -> Exception:
    """A rank's exception again; causes of failures are known by their class's name."""
    return WorkbenchError(text) if ours else type(name, (Exception,), {})(text)


def run(spec: RunSpec, reporter: Reporter, folder: Path, placed: Placed) -> dict[str, Any]:
    """As `workbench.train.run`, with `training.processes` ranks.

    Raises:
        Stopped: the person asked for it.
        WorkbenchError: the run cannot be done so, or a rank failed; one sentence.
    """
    count = spec.training.processes
    _check(spec, placed)
    placed = placed.model_copy(update={"threads": max(1, placed.threads // count)})
    with tempfile.TemporaryDirectory(prefix="ranks-") as aside, _door(Path(aside)) as (arriving, key):
        work = {"spec": spec.model_dump(mode="json"), "placed": placed.model_dump(mode="json"), "folder": str(folder.resolve())}
        (Path(aside) / WORK).write_text(json.dumps(work), encoding="utf-8")
        launcher = _launch(Path(aside), count, placed, key)
        try:
            return _serve(arriving, launcher, reporter)
        finally:
            _end(launcher)
            for rank in arriving:
                rank.close()


def _check(spec: RunSpec, placed: Placed) -> None:
    from workbench import recipes
    from workbench.kernel import registry
    from workbench.plan import sharing

    method, recipe = registry.methods()[spec.base_method], recipes.configure(spec.recipe)[0]
    for problem in sharing.problems(spec.base_method, method, recipe, placed.device, spec.training.processes):
        raise WorkbenchError(problem)


@contextmanager
def _door(aside: Path) -> Iterator[tuple[list[Connection], str]]:
    """(connections of the ranks as they arrive, the key that opens); the path is short, as a socket's must be."""
    key, arriving = secrets.token_hex(32), []
    with Listener(str(aside / DOOR), "AF_UNIX", backlog=64, authkey=key.encode()) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError, EOFError):  # the listener is closed when the training is over
                while True:
                    arriving.append(listener.accept())

        threading.Thread(target=accept, name="ranks", daemon=True).start()
        yield arriving, key


def _launch(aside: Path, count: int, placed: Placed, key: str) -> subprocess.Popen:
    options = {"num_processes": count, "num_machines": 1, "mixed_precision": "no", "dynamo_backend": "no", "main_process_port": 0}
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    module = [sys.executable, "-P", "-m", "accelerate.commands.launch", "--multi_gpu", *given, "--module", "workbench.train.rank"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", KEY: key, "OMP_NUM_THREADS": str(placed.threads),
           "ACCELERATE_USE_CPU": str(placed.device == "cpu").lower()}  # fmt: skip
    return subprocess.Popen([*module, str(aside)], env=env, stdin=subprocess.DEVNULL)


def _serve(arriving: list[Connection], launcher: subprocess.Popen, reporter: Reporter) -> dict[str, Any]:
    """Pass on what the ranks say until the first one has the result, or one fails."""
    ended: set[Connection] = set()
    while True:
        open_ones = [rank for rank in arriving if rank not in ended]
        ready = wait(open_ones, POLL)
        for rank in ready:
            assert isinstance(rank, Connection)
            try:
                what, value = hear(rank)
            except (EOFError, OSError):
                ended.add(rank)
                continue
            if what == "emit":
                reporter.emit(_event(value))
            elif what == "ask":
                say(rank, "answer", [reporter.wish(), reporter.offset])
            elif what == "result":
                return value
            elif what == "stopped":
                raise Stopped(value)
            else:
                raise _error(**value)
        if not ready and launcher.poll() is not None:
            raise WorkbenchError(
                f"the processes of the training must run to its end; they ended with code {launcher.returncode}: see the log."
            )


def _end(launcher: subprocess.Popen) -> None:
    """Wait for the ranks, which leave by themselves, and their launcher."""
    try:
        launcher.wait(LEAVE_WITHIN)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        launcher.terminate()  # it ends its ranks first
        with contextlib.suppress(subprocess.TimeoutExpired):
            launcher.wait(LEAVE_WITHIN)
        launcher.kill()
        launcher.wait()
