"""Background processes that outlive who started them: the double fork, the code they run, and how clients start them."""

import hashlib
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from workbench.core.errors import WorkbenchError
from workbench.core.locks import file_lock
from workbench.core.paths import ROOT, home, keep_others_out, locks

READY = "ready"
LOG_LIMIT = 1_000_000


def code_stamp() -> str:
    """12 hex digits that change when a Python file of the workbench does (names, sizes and times; about 3 ms)."""
    digest = hashlib.sha256()
    for top in ("workbench", "tracking"):
        for folder, names, files in os.walk(ROOT / top):
            names[:] = sorted(name for name in names if name != "__pycache__")
            for name in sorted(name for name in files if name.endswith(".py")):
                try:
                    info = os.stat(os.path.join(folder, name))
                except FileNotFoundError:
                    continue  # an editor is just replacing it; the next look sees the new one
                digest.update(f"{folder}/{name} {info.st_size} {info.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def python(module: str, *arguments: str) -> list[str]:
    """The command line of one of our modules; `-P` keeps the current folder off the import path."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """What our background processes see: the caller's environment, this home and this repository."""
    return {**os.environ, "WORKBENCH_HOME": str(home()), "PYTHONPATH": str(ROOT)}


def launch(command: Sequence[str], what: str, ready: Callable[[], bool]) -> None:
    """Start a background process unless `ready()` already; callers at the same time start one and share it.

    Args:
        command: a program that ends with code 0 once its detached grandchild is ready (see `detach`).
        what: its name in messages and of its lock.
        ready: whether one answers already.

    Raises:
        WorkbenchError: it did not become ready.
    """
    with file_lock(locks() / f"{what}-start.lock"):
        if ready():
            return
        try:
            done = subprocess.run(
                command, env=environment(), cwd=home(), stdin=subprocess.DEVNULL, capture_output=True, timeout=90, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise WorkbenchError(f"the {what} could not be started: {error}.") from None
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise WorkbenchError(f"the {what} could not be started: {lines[-1] if lines else f'exit code {done.returncode}'}")


def _silence(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.unlink()
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, number in ((nothing, 0), (target, 1), (target, 2)):
        os.dup2(source, number)
    os.close(nothing)
    os.close(target)


def detach(log: Path, serve: Callable[[Callable[[], None]], None]) -> int:
    """Fork twice and run `serve(ready)` in the grandchild, in its own session, its output going to `log`.

    Returns:
        0 in the caller as soon as the grandchild called `ready()`; 1, with a sentence on stderr, if it ended before.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        os.waitpid(child, 0)
        with open(reading, encoding="utf-8") as answer:
            message = answer.read()  # until `ready`, or the end of the grandchild, closes the other side
        if message == READY:
            return 0
        print(message or f"it ended at once; see {log}", file=sys.stderr)
        return 1
    os.close(reading)
    os.setsid()
    if os.fork():
        os._exit(0)
    _grandchild(log, serve, writing)
    return 0


def _grandchild(log: Path, serve: Callable[[Callable[[], None]], None], writing: int) -> None:
    told = False

    def tell(message: str) -> None:
        nonlocal told
        if not told:
            told = True
            os.write(writing, message.encode())
            os.close(writing)

    code = 1
    try:
        keep_others_out()
        os.chdir(home())
        _silence(log)
        serve(lambda: tell(READY))
        code = 0
    except BaseException as error:
        traceback.print_exc()
        tell(str(error) if isinstance(error, WorkbenchError) else f"it ended with {type(error).__name__}; see {log}")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
