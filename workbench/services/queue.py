"""The queue as its screen shows it: rows with progress and remaining time, and what a person may do with each."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.core.errors import unknown
from workbench.core.paths import run_folder
from workbench.jobs import arranging, client, removing
from workbench.services import finishing, results

LIVE = ("queued", "starting", "running")
MOST = 200
"""Jobs that a screen shows at once."""
QUIET_AFTER = 300.0
"""Seconds without an event or a line in the log after which a running job is flagged; nothing is done to it."""
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

    `remaining` is an estimate from the steps done, null while nothing can be said. `turn` is the place of a waiting job, 1 =
    next. `quiet` is the number of seconds for which a running job has said nothing, null unless they are too many. `actions`
    lists what may be asked.

    Args:
        experiment: only this id's.
        states: only jobs in one of these; all by default.
        count, skip: how many, after how many newer ones.
    """
    now, found = time.time(), client.newest(experiment, states, count, skip)
    turns = {job: number for number, job in enumerate(arranging.order(), 1)}
    return [
        {**results.job_row(row), **_timing(row, now), "neighbours": bool(row["neighbours"]), "turn": turns.get(row["job"])}
        for row in found
    ]


def counts(experiment: str | None = None) -> dict[str, int]:
    """State -> number of jobs; states that no job is in are left out."""
    return client.counts(experiment)


def _timing(row: Mapping[str, Any], now: float) -> dict[str, Any]:
    over = row["state"] in ("finished", "failed", "cancelled")
    share = 1.0 if row["state"] == "finished" else min(row["step"] / row["steps"], 1.0) if row["steps"] else 0.0
    seconds = None if not row["started"] else max((row["ended"] if over and row["ended"] else now) - row["started"], 0.0)
    remaining = seconds * (1 - share) / share if row["state"] == "running" and seconds and 0 < share < 1 else None
    return {
        "share": share,
        "seconds": seconds,
        "remaining": remaining,
        "quiet": quiet(row, now),
        "actions": actions(row),
    }


def actions(row: Mapping[str, Any]) -> list[str]:
    """What may be asked of a job in its state."""
    return [n for n, (_, states) in ACTIONS.items() if row["state"] in states and (n != "pause" or row["kind"] == "train")]


def quiet(row: Mapping[str, Any], now: float) -> float | None:
    """Seconds since a running job's last event or line, where they are more than `QUIET_AFTER`; else None."""
    if row["state"] != "running":
        return None
    signs = [row["started"] or now]
    for name in ("events.jsonl", "train.log"):
        try:
            signs.append((run_folder(row["run_id"]) / name).stat().st_mtime)
        except OSError:
            continue
    since = now - max(signs)
    return since if since > QUIET_AFTER else None


def estimate(experiment: str | None = None) -> finishing.Estimate | None:
    """When what waits and runs of an experiment (or all) will be done; None where nothing can be said."""
    found, paces = arranging.standing()
    return finishing.estimate(found, paces, time.time(), experiment)


def act(action: str, job: int | str) -> int:
    """Cancel, pause, resume, retry or delete a job; returns the bytes that a deletion freed, else 0.

    Raises:
        WorkbenchError: unknown action or job, or its state does not allow it.
    """
    if action not in ACTIONS:
        raise unknown("action", action, ACTIONS)
    done = ACTIONS[action][0](job)
    return done if isinstance(done, int) else 0


def move(job: int | str, where: str) -> None:
    """Give a waiting job another place: `first`, or `up` or `down` by one.

    Raises:
        WorkbenchError: it does not wait.
    """
    arranging.move(job, where)


def hold(experiment: str) -> int:
    """Hold back what waits of an experiment; returns how many runs."""
    return arranging.hold(experiment)


def release(experiment: str) -> int:
    """Queue what is paused of an experiment again; returns how many runs."""
    return arranging.release(experiment)


def held_bytes(jobs: Sequence[int]) -> int:
    """Bytes on disk that deleting these jobs would free."""
    return removing.held(jobs)


def wake() -> None:
    """Make sure that the daemon runs.

    Raises:
        WorkbenchError: it cannot be started.
    """
    client.ensure_daemon()
