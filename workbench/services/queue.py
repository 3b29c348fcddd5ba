"""The queue as its screen shows it: rows with progress and remaining time, and what a person may do with each."""

import time
from collections.abc import Sequence
from typing import Any

from workbench.core.errors import unknown
from workbench.jobs import client
from workbench.services import results

LIVE = ("queued", "starting", "running")
MOST = 200
"""Jobs that a screen shows at once."""
ACTIONS = {
    "cancel": (client.cancel, LIVE),
    "pause": (client.pause, LIVE),
    "resume": (client.resume, ("paused",)),
    "retry": (client.retry, ("failed", "cancelled")),
    "delete": (client.delete, ("queued", "paused", "finished", "failed", "cancelled")),
}
"""Action -> (what the client calls it, states in which it can be done)."""


def rows(experiment: str | None = None, states: Sequence[str] = (), count: int = MOST, skip: int = 0) -> list[dict[str, Any]]:
    """Jobs, newest first: the rows of `jobs --json` with `share` done (0 to 1), `seconds` so far and `remaining`.

    `remaining` is an estimate from the steps done, null while nothing can be said. `actions` lists what may be asked.

    Args:
        experiment: only this id's.
        states: only jobs in one of these; all by default.
        count, skip: how many, after how many newer ones.
    """
    now, found = time.time(), client.newest(experiment, states, count, skip)
    return [{**results.job_row(row), **_timing(row, now), "neighbours": bool(row["neighbours"])} for row in found]


def counts(experiment: str | None = None) -> dict[str, int]:
    """State -> number of jobs; states that no job is in are left out."""
    return client.counts(experiment)


def _timing(row: dict[str, Any], now: float) -> dict[str, Any]:
    over = row["state"] in ("finished", "failed", "cancelled")
    share = 1.0 if row["state"] == "finished" else min(row["step"] / row["steps"], 1.0) if row["steps"] else 0.0
    seconds = None if not row["started"] else max((row["ended"] if over and row["ended"] else now) - row["started"], 0.0)
    remaining = seconds * (1 - share) / share if row["state"] == "running" and seconds and 0 < share < 1 else None
    return {
        "share": share,
        "seconds": seconds,
        "remaining": remaining,
        "actions": [
            n for n, (_, states) in ACTIONS.items() if row["state"] in states and (n != "pause" or row["kind"] == "train")
        ],
    }


def act(action: str, job: int | str) -> None:
    """Cancel, pause, resume, retry or delete a job.

    Raises:
        WorkbenchError: unknown action or job, or its state does not allow it.
    """
    if action not in ACTIONS:
        raise unknown("action", action, ACTIONS)
    ACTIONS[action][0](job)


def wake() -> None:
    """Make sure that the daemon runs.

    Raises:
        WorkbenchError: it cannot be started.
    """
    client.ensure_daemon()
