"""The queue as its screen shows it: rows with progress and remaining time, and what a person may do with each."""

import time
from typing import Any

from workbench.core.errors import unknown
from workbench.jobs import client
from workbench.services import results

LIVE = ("queued", "starting", "running")
ACTIONS = {
    "cancel": (client.cancel, LIVE),
    "retry": (client.retry, ("failed", "cancelled")),
    "delete": (client.delete, ("queued", "paused", "finished", "failed", "cancelled")),
}
"""Action -> (what the client calls it, states in which it can be done)."""


def rows(experiment: str | None = None) -> list[dict[str, Any]]:
    """All jobs, newest first: the rows of `jobs --json` with `share` done (0 to 1), `seconds` so far and `remaining`.

    `remaining` is an estimate from the steps done, null while nothing can be said. `actions` lists what may be asked.
    """
    now = time.time()
    return [{**results.job_row(row), **_timing(row, now), "neighbours": bool(row["neighbours"])} for row in _newest(experiment)]


def _newest(experiment: str | None) -> list[dict[str, Any]]:
    return list(reversed(client.jobs(experiment)))


def _timing(row: dict[str, Any], now: float) -> dict[str, Any]:
    over = row["state"] in ("finished", "failed", "cancelled")
    share = 1.0 if row["state"] == "finished" else min(row["step"] / row["steps"], 1.0) if row["steps"] else 0.0
    seconds = None if not row["started"] else max((row["ended"] if over and row["ended"] else now) - row["started"], 0.0)
    remaining = seconds * (1 - share) / share if row["state"] == "running" and seconds and 0 < share < 1 else None
    return {
        "share": share,
        "seconds": seconds,
        "remaining": remaining,
        "actions": [name for name, (_, states) in ACTIONS.items() if row["state"] in states],
    }


def act(action: str, job: int | str) -> None:
    """Cancel, retry or delete a job.

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
