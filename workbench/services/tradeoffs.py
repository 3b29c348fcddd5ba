"""What can stand on the axes of a trade-off: figures that every run has, and those that an analysis gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.services import analyses
from workbench.services.comparison import Comparison

MEASURED = ("trainable_params", "peak_memory_bytes", "step_seconds", "train_seconds", "adapter_bytes")
ANALYSED = {
    "latency_unmerged": "latency",
    "latency_merged": "latency",
    "forgetting_nll": "forgetting",
    "forgetting_drift": "forgetting",
}
"""Figure -> the analysis that measures it."""
TIMED = ("step_seconds",)


@dataclass(frozen=True)
class Missing:
    """What an analysis has still to look at.

    Attributes:
        analysis: its key.
        runs: run ids without its figure.
        reason: why a figure stays empty although the analysis was run, else empty.
    """

    analysis: str
    runs: tuple[str, ...]
    reason: str = ""


def widened(found: Comparison) -> Comparison:
    """The comparison with the further figures as columns of `runs`: step_seconds, and what analyses found."""
    frame = found.runs.copy()
    frame["step_seconds"] = [_step_seconds(row) for row in found.rows]
    known = analyses.results_of([row["run_id"] for row in found.rows if row["state"] == "finished"])
    for name in ANALYSED:
        frame[name] = [_analysed(known.get(row["run_id"], {}), name) for row in found.rows]
    return replace(found, runs=frame)


def _step_seconds(row: Mapping[str, Any]) -> float | None:
    """Training seconds per optimizer step, without what the first step costs to warm up where that is known."""
    seconds, steps = row.get("train_seconds"), row.get("steps")
    return None if not steps or seconds is None or row.get("neighbours") else seconds / steps


def _analysed(known: Mapping[str, Any], name: str) -> float | None:
    if name.startswith("latency"):
        return known.get(name)
    return known.get("forgetting") if known.get("forgetting_kind") == name.removeprefix("forgetting_") else None


def choices(found: Comparison) -> list[str]:
    """Names of what can be chosen, quality first; figures of an analysis are there even before it was run."""
    tests = [name for name in found.metrics if name != "loss"] or list(found.metrics)
    tests.sort(key=lambda name: name != found.metric)
    task = {row["task"] for row in found.rows}
    speaks = bool(task) and task <= {"causal_lm", "multiple_choice"}
    forgetting = "forgetting_nll" if speaks else "forgetting_drift"
    return [*tests, *MEASURED, "latency_unmerged", "latency_merged", forgetting]


def missing(found: Comparison, names: Sequence[str]) -> list[Missing]:
    """The analyses that would fill these figures, each with the finished runs that it has not looked at.

    Args:
        found: a widened comparison.
        names: the chosen figures.
    """
    wanted: dict[str, list[str]] = {}
    finished = [row["run_id"] for row in found.rows if row["state"] == "finished"]
    known = analyses.results_of(finished)
    for name in names:
        if name in ANALYSED:
            seen = "forgetting" if ANALYSED[name] == "forgetting" else "latency_unmerged"
            wanted.setdefault(ANALYSED[name], []).extend(run for run in finished if seen not in known.get(run, {}))
    return [Missing(analysis, tuple(dict.fromkeys(runs))) for analysis, runs in wanted.items() if runs]


def movement(found: Comparison) -> tuple[list[dict[str, Any]], list[str]]:
    """How far the model moved: (rows label, seed, depth, role, value, kind; finished runs that were not looked at)."""
    labels = {row["run_id"]: row["label"] for row in found.rows if row["state"] == "finished"}
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for one in analyses.done("movement"):  # the newest look at a run counts
        fresh = set(one["runs"]) & labels.keys() - seen
        if fresh:
            table = analyses.result(one["job"])["tables"].get("movement", [])
            rows += [{**row, "label": labels[row["run_id"]]} for row in table if row["run_id"] in fresh]
            seen |= fresh
    return rows, [run for run in labels if run not in seen]
