"""From an exception, or from a log and an exit status, to what a person reads: a sentence, the field to change, log lines."""

import dataclasses
import json
import re
import shutil
import signal
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.core.errors import WorkbenchError
from workbench.core.text import hidden
from workbench.jobs import causes
from workbench.jobs.causes import Cause

LONGEST = 300
MOST_LINES = 5
DISK = next(cause for cause in causes.CAUSES if cause.name == "disk")
HEADER = "=== attempt "  # the daemon's line at the top of each attempt in train.log
TELLING = re.compile(r"error|exception|fatal|killed|out of memory|\bnan\b|no space|cannot|refused|denied", re.IGNORECASE)


class Terminated(BaseException):
    """Raised in a worker by SIGTERM, so that it can still leave a verdict."""


@dataclass(frozen=True)
class Failure:
    """Why a run failed.

    Attributes:
        cause: a name of `causes`.
        sentence: one sentence.
        field: the spec field to change; empty where no field helps.
        lines: one to five lines of the log that show it.
    """

    cause: str
    sentence: str
    field: str = ""
    lines: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {**dataclasses.asdict(self), "lines": list(self.lines)}

    def text(self) -> str:
        """As the row of a job holds it."""
        return json.dumps(self.plain(), ensure_ascii=False)


def _short(text: str) -> str:
    line = hidden(" ".join("".join(c if c.isprintable() else " " for c in text).split()))
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."


def explain(error: BaseException) -> Failure:
    """What an exception means: our own errors keep their sentence, known causes have one, others are said short."""
    cause, found = causes.of(error)
    text = _short(str(found)).rstrip(".")
    own = isinstance(error, WorkbenchError) and not cause.insists
    said = str(error) if own else _said(cause, text or "it failed without a message", type(found).__name__)
    return Failure(cause.name, said, causes.field_of(cause, f"{error} {found}"), _lines_of(error))


def sentence(error: BaseException) -> str:
    """The sentence of `explain`."""
    return explain(error).sentence


def _said(cause: Cause, text: str, name: str = "") -> str:
    return cause.sentence.replace("{text}", text).replace("{name}", name)


def _lines_of(error: BaseException) -> tuple[str, ...]:
    """From its traceback, as the log has it: where it was raised, and what was said, the oldest first."""
    lines: list[str] = []
    for one in reversed(_printed(error)):
        where = traceback.extract_tb(one.__traceback__)[-1:]
        lines += [f'File "{frame.filename}", line {frame.lineno}, in {frame.name}' for frame in where if one is error]
        said = "".join(traceback.format_exception_only(one)).splitlines()
        lines += [_short(line) for line in said if _meaningful(line)][:2]
    return tuple(lines[-MOST_LINES:])


def _printed(error: BaseException) -> list[BaseException]:
    """The exceptions that a traceback shows, the newest first: those that `from None` hides are left out."""
    shown = [error]
    while (one := shown[-1].__cause__ or (None if shown[-1].__suppress_context__ else shown[-1].__context__)) is not None:
        if any(one is known for known in shown):
            break
        shown.append(one)
    return shown


def _meaningful(line: str) -> bool:
    return sum(c.isalnum() for c in line) >= 3


def _newest(path: Path, size: int = 65_536) -> list[str]:
    """The meaningful lines of a log's newest attempt, at most its last `size` bytes."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    start = max((i + 1 for i, line in enumerate(lines) if line.startswith(HEADER)), default=0)
    return [_short(line) for line in lines[start:] if _meaningful(line)]


def log_tail(path: Path) -> str:
    """The last meaningful line of a log's newest attempt; empty when nothing was logged."""
    return next(reversed(_newest(path)), "")


def telling(lines: Sequence[str]) -> tuple[str, ...]:
    """The last lines that speak of an error, else the last three."""
    found = [line for line in lines if TELLING.search(line)]
    return tuple(found[-MOST_LINES:] or lines[-3:])


def without_verdict(folder: Path, status: int | None, out_of_memory: str = "") -> Failure:
    """Why a worker ended without a verdict.

    Args:
        folder: its run folder.
        status: as of `Popen.returncode` (negative = signal), None when it was not our child.
        out_of_memory: where the kernel killed for memory while this one ran, as of `memory.between`.
    """
    lines = _newest(folder / "train.log")
    shown = telling(lines)
    if shutil.disk_usage(folder if folder.exists() else folder.parents[1]).free < 1 << 20:
        return Failure(DISK.name, _said(DISK, "less than 1 MB left"), DISK.field, shown)
    killed = status is None or -status == signal.SIGKILL
    if killed and out_of_memory:
        who = "the system killed the worker" if out_of_memory == "group" else "the worker was killed, most likely by the system,"
        return Failure(causes.SYSTEM.name, _said(causes.SYSTEM, who), causes.SYSTEM.field, shown)
    last_words = list(shown) if status else lines[-1:]  # of somebody else's child only the very last line tells
    if (status is None or status > 0) and (known := causes.of_log(last_words)):
        cause, line = known
        said = _said(cause, line.rstrip(".")) or line
        return Failure(cause.name, said, causes.field_of(cause, line), shown)
    last = f"its last log line: {lines[-1]}" if lines else "it logged nothing."
    return Failure(causes.KILLED.name, f"{_ended(status)}; {last}", causes.KILLED.field, shown)


def _ended(status: int | None) -> str:
    if status is not None and status < 0:
        hint = " (by hand, or by the system because memory ran out)" if -status == signal.SIGKILL else ""
        return f"the worker was killed by {signal.Signals(-status).name}{hint}"
    said = "was killed or ended without a verdict" if status is None else f"ended with exit code {status} and no verdict"
    return f"the worker {said}"
