"""From an exception, or from a log and an exit status, to the one sentence a person reads."""

import errno
import shutil
import signal
from pathlib import Path

from workbench.core.errors import WorkbenchError

LONGEST = 300
DISK_FULL = "the disk is full ({}); free some space and retry the run."
HEADER = "=== attempt "  # the daemon's line at the top of each attempt in train.log


class Terminated(BaseException):
    """Raised in a worker by SIGTERM, so that it can still leave a verdict."""


def _short(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."


def _out_of_memory(error: BaseException, text: str) -> str | None:
    name = type(error).__name__
    if name == "OutOfMemoryError" or "CUDA out of memory" in text:
        return "the GPU ran out of memory; use a smaller batch_size or max_length, or a method with fewer activations."
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "not enough memory" in text:
        return "the machine ran out of memory; use a smaller batch_size or max_length, or a smaller model."
    return None


def sentence(error: BaseException) -> str:
    """One sentence for an exception: our own errors as they are, known causes by name, others short with their class."""
    if isinstance(error, WorkbenchError):
        return str(error)
    text = _short(str(error))
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "No space left on device" in text or "disk is full" in text:
        return DISK_FULL.format(text)
    memory = _out_of_memory(error, text)
    if memory:
        return memory
    if isinstance(error, ModuleNotFoundError):
        return f"the module {error.name!r} is missing in this installation; install requirements.txt and retry."
    name = type(error).__name__
    return f"{text.rstrip('.') or 'it failed without a message'} ({name}; the log has the details)."


def log_tail(path: Path, size: int = 16_384) -> str:
    """The last meaningful line of a log's newest attempt; empty when nothing was logged."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        if line.startswith(HEADER):
            return ""
        if sum(c.isalnum() for c in line) >= 3:
            return _short(line)
    return ""


def without_verdict(folder: Path, status: int | None) -> str:
    """Why a worker ended without a verdict.

    Args:
        folder: its run folder.
        status: as of `Popen.returncode` (negative = signal), None when it was not our child.
    """
    if shutil.disk_usage(folder if folder.exists() else folder.parents[1]).free < 1 << 20:
        return DISK_FULL.format("less than 1 MB left")
    if status is not None and status < 0:
        hint = " (by hand, or by the system because memory ran out)" if -status == signal.SIGKILL else ""
        cause = f"the worker was killed by {signal.Signals(-status).name}{hint}"
    elif status:
        cause = f"the worker ended with exit code {status} and no verdict"
    else:
        cause = "the worker was killed or ended without a verdict"
    last = log_tail(folder / "train.log")
    return f"{cause}; its last log line: {last}" if last else f"{cause}; it logged nothing."
