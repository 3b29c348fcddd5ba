"""What the Compare screen draws: frames made from finished runs, nothing about drawing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.paths import run_folder
from workbench.services import catalogue, results, runs

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Comparison:
    """One or several experiments.

    Attributes:
        experiments: their ids.
        rows: as `compare --json` prints them.
        runs: the same as a frame, metrics as columns `metrics.<name>`.
        table: one line per label: means and intervals.
        metrics: names of the test metrics.
        metric: the one that counts; `higher` says whether more is better.
        notes: what to know before reading the figures.
    """

    experiments: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    runs: "pd.DataFrame"
    table: "pd.DataFrame"
    metrics: tuple[str, ...]
    metric: str
    higher: bool
    notes: tuple[str, ...]


def comparison(references: Sequence[str]) -> Comparison:
    """Compare experiments.

    Raises:
        WorkbenchError: no such experiment.
    """
    from workbench import compare

    found = results.results(references)
    rows, frame = found["rows"], compare.frame(found["rows"])
    names = tuple(c.removeprefix("metrics.") for c in frame.columns if str(c).startswith("metrics."))
    tasks = {row["task"] for row in rows}
    task = next((t for t in catalogue.everything()["tasks"] if t["key"] in tasks), {"metric": "", "greater_is_better": True})
    metric = task["metric"] if task["metric"] in names else next(iter(names), "")
    higher = bool(task["greater_is_better"])
    return Comparison(
        tuple(found["experiments"]), tuple(rows), frame, compare.table(frame), names, metric, higher, tuple(_notes(rows))
    )


def _notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    seeds: dict[str, int] = {}
    for row in rows:
        seeds[row["label"]] = seeds.get(row["label"], 0) + (row["state"] == "finished")
    notes = []
    if seeds and max(seeds.values()) == 1:
        notes.append("One seed, no interval: differences between methods may be chance.")
    elif 1 in seeds.values():
        notes.append("Methods with one finished run have no interval.")
    if len({row["task"] for row in rows}) > 1:
        notes.append("These experiments have different tasks; their figures cannot be compared.")
    if any(row["neighbours"] for row in rows):
        notes.append("Runs that shared the machine with others are left out of time and speed.")
    over = sum(row["state"] in ("failed", "cancelled") for row in rows)
    if over:
        notes.append(f"{over} of {len(rows)} runs did not finish; they have no figures.")
    return notes


def curves(rows: Sequence[dict[str, Any]], metric: str) -> "pd.DataFrame":
    """Learning curves over seeds: label, step, mean, ci_low, ci_high, n, of a validation metric or of `loss`."""
    import pandas as pd

    from workbench import compare

    points = [
        {"label": row["label"], "step": s, "value": v} for row in rows for s, v in _points(run_folder(row["run_id"]), metric)
    ]
    return compare.bands(pd.DataFrame(points, columns=["label", "step", "value"]))


def _points(folder: Path, metric: str) -> list[tuple[int, float]]:
    found = runs.curves(folder)
    if metric == "loss":
        return [(one["step"], one["loss"]) for one in found["steps"] if one["loss"] is not None]
    held = [one for one in found["evaluations"] if one["split"] == "validation" and one["metrics"].get(metric) is not None]
    return [(one["step"], one["metrics"][metric]) for one in sorted(held, key=lambda one: one["step"])]
