"""When a batch of runs will be done: the plan's seconds, corrected by what finished runs of the same experiment took."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """An estimate, never a promise.

    Attributes:
        runs: trainings that are not over.
        seconds: until the last of them is.
        finished: runs of the same experiments that it learns from.
    """

    runs: int
    seconds: float
    finished: int

    @property
    def basis(self) -> str:
        """Where it comes from, as the end of a sentence."""
        if self.finished == 1:
            return "the plan's seconds, corrected by what one finished run took"
        if self.finished:
            return f"the plan's seconds, corrected by what {self.finished:,} finished runs took"
        return "the plan's training seconds; loading and judging come on top"


def expected(row: Mapping[str, Any], paces: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Seconds that one run takes from its start to its end; None where neither a plan nor a finished run says so."""
    pace = paces.get(row["experiment"])
    if row["planned_seconds"] is None:
        return pace["took"] / pace["runs"] if pace else None
    return row["planned_seconds"] * (pace["took_planned"] / pace["planned"] if pace and pace["planned"] else 1.0)


def remaining(row: Mapping[str, Any], paces: Mapping[str, Mapping[str, Any]], now: float) -> float | None:
    """Seconds that a run still needs; of one that trains, from its own steps as soon as a tenth of them is done."""
    whole = expected(row, paces)
    if row["state"] == "queued":
        return whole if whole is None or not row["steps"] else whole * (1 - min(row["step"] / row["steps"], 1.0))
    so_far, share = max(now - (row["started"] or now), 0.0), row["step"] / row["steps"] if row["steps"] else 0.0
    if share >= 0.1:
        return so_far * (1 - min(share, 1.0)) / share
    return None if whole is None else max(whole - so_far, 0.0)


def estimate(
    rows: Sequence[Mapping[str, Any]], paces: Mapping[str, Mapping[str, Any]], now: float, experiment: str | None = None
) -> Estimate | None:
    """When the trainings of an experiment (or all) are done; None where there are none, or one of them cannot be judged.

    Args:
        rows: every training that is live or waits, whatever its experiment, in the order of the queue.
        paces: experiment -> {runs, took, took_planned, planned} of its finished runs, see `Store.paces`.
        now: seconds since the epoch.
        experiment: only until its last run is done; the others before it still take their time.
    """
    wanted = [row for row in rows if experiment is None or row["experiment"] == experiment]
    live = [row for row in rows if row["state"] != "queued"]
    lanes, last = [0.0] * max(len(live), 1), 0.0
    for row in [*live, *(row for row in rows if row["state"] == "queued")]:
        left = remaining(row, paces, now)
        if left is None:
            return None
        end = heapq.heappop(lanes) + left
        heapq.heappush(lanes, end)
        if experiment is None or row["experiment"] == experiment:
            last = max(last, end)
    known = {row["experiment"] for row in wanted}
    return Estimate(len(wanted), last, sum(paces[name]["runs"] for name in known if name in paces)) if wanted else None
