"""Named places at which the tests of faults stop, kill or shake a process: `WORKBENCH_FAILPOINT="claimed:KILL"`.

`step@3:STOP` acts at the third time that one process reaches the place. A failpoint acts once in a home: the file
`<home>/failpoint` remembers who reached it. Without the variable `reach` is one look at a constant. Standard library only.
"""

import os
import signal
from pathlib import Path
from types import MappingProxyType

VARIABLE = "WORKBENCH_FAILPOINT"
PLACES = MappingProxyType({
    "submit.written": "client: the run folders are in place, no row is",
    "submit.acknowledged": "client: the rows are committed, the caller does not know it yet",
    "cancel.written": "client: a cancel is in the row, the caller does not know it yet",
    "pause.written": "client: a pause is in the row, the caller does not know it yet",
    "queued": "daemon: jobs wait and a slot is free",
    "claimed": "daemon: a job has its slot, nothing of it was started",
    "forked": "daemon: the worker was started, its pid is not in the row",
    "lock.before": "worker: nothing done yet",
    "lock.after": "worker: its lock is held, the row does not say running",
    "began": "worker: the row says running",
    "loaded": "worker: spec and reporter are there, the training begins",
    "step": "worker: an optimizer step was taken",
    "event.written": "worker: an event is in events.jsonl",
    "evaluation": "worker: an evaluation begins",
    "wish.seen": "worker: it has read a cancel or pause and obeys",
    "checkpoint.written": "worker: the files of a checkpoint are written, neither synced nor renamed",
    "checkpoint.renamed": "worker: a checkpoint is in place, older ones are still there",
    "adapter.written": "worker: the files of an adapter are written, neither synced nor renamed",
    "verdict.before": "worker: the work is over, its verdict is not written",
    "verdict.written": "worker: the verdict is in place",
    "ended.before": "daemon: it has judged a worker that is gone, the row is still live",
    "ended.committed": "daemon: the row has its terminal state",
    "export.written": "worker: the files of an export are written and checked, neither synced nor renamed",
    "export.renamed": "worker: an export is in place",
})  # fmt: skip
"""Place -> who passes it, and what is true there."""
ACTIONS = ("KILL", "TERM", "INT", "STOP", "SEGV", "ABRT")


def _parsed(text: str | None) -> tuple[str, int, str] | None:
    if not text:
        return None
    place, _, action = text.partition(":")
    name, _, count = place.partition("@")
    if name not in PLACES or action not in ACTIONS or not (count or "1").isascii() or not (count or "1").isdigit():
        raise SystemExit(
            f"{VARIABLE} must be PLACE:ACTION or PLACE@N:ACTION with one of the places {', '.join(PLACES)} and one of the "
            f"actions {', '.join(ACTIONS)}; got {text[:80]!r}: unset it."
        )
    return name, int(count or 1), action


_WANTED = _parsed(os.environ.get(VARIABLE))
_passed = 0


def reach(place: str) -> None:
    """Say that the process is at a place of the table; acts when that was asked for."""
    if _WANTED is not None and _WANTED[0] == place:
        _act(*_WANTED[1:])


def _act(count: int, action: str) -> None:
    global _passed
    _passed += 1
    if _passed != count:
        return
    try:
        with open(Path(os.environ["WORKBENCH_HOME"]) / "failpoint", "x") as mark:
            mark.write(f"{os.getpid()}\n")
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.Signals[f"SIG{action}"])
