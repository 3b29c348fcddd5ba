"""What the Compare screen draws: frames made from finished runs, nothing about drawing."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracking import events as tracked
from workbench.core.paths import run_folder
from workbench.services import disagreements as disagreements_
from workbench.services import judging, results, runs, stored

if TYPE_CHECKING:
    import pandas as pd

KEPT_CURVES = 600
"""Runs whose learning curves are kept in memory."""
MORE_IS_BETTER = ("examples_per_second",)
"""Figures of which more is better; of every other figure (sizes, times) less is."""


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
        pairs: every two labels judged by `metric`, columns `compare.PAIRS`; Holm over the pairs of these rows.
        groups: label -> group; only labels of one group may be drawn over each other.
        guard: why there are several groups, one sentence per field.
    """

    experiments: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    runs: "pd.DataFrame"
    table: "pd.DataFrame"
    metrics: tuple[str, ...]
    metric: str
    higher: bool
    notes: tuple[str, ...]
    pairs: "pd.DataFrame"
    groups: Mapping[str, int] = field(default_factory=dict)
    guard: tuple[str, ...] = ()


def comparison(
    references: Sequence[str], labels: Collection[str] | None = None, runs: Collection[str] | None = None
) -> Comparison:
    """Compare experiments.

    Args:
        references: experiment ids, bare names or unique beginnings.
        labels: only these labels; all by default.
        runs: only these run ids; all by default.

    Raises:
        WorkbenchError: no such experiment.
    """
    from workbench import compare

    ids, rows = results.rows(references, labels, runs)
    frame = compare.frame(rows)
    names = tuple(c.removeprefix("metrics.") for c in frame.columns if str(c).startswith("metrics."))
    metric, higher = judging.headline(rows)
    guard = judging.guard(rows)
    groups = guard.of()
    pairs = judging.pairs(rows, metric, higher, groups)
    notes = (*_notes(rows), *guard.notes)
    table = compare.table(frame)
    return Comparison(tuple(ids), tuple(rows), frame, table, names, metric, higher, notes, pairs, groups, guard.sentences)


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
    if judging.too_many(rows):
        notes.append(judging.TOO_MANY)
    return notes


def pairs(found: Comparison, metric: str) -> "pd.DataFrame":
    """Every two labels judged by a test metric; columns `compare.PAIRS`. Those of the headline metric are there already."""
    if metric == found.metric:
        return found.pairs
    return judging.pairs(found.rows, metric, judging.higher(metric, found.rows), found.groups)


def front(
    found: Comparison, x: str, y: str, x_better: str | None = None, y_better: str | None = None, group: int = 0
) -> "pd.DataFrame":
    """The labels of one group in two figures, with error crosses and the probability of standing on the Pareto front.

    Args:
        found: a comparison.
        x, y: test metrics or figures (`compare.FIGURES`).
        x_better, y_better: `higher` or `lower`; by default what the figure says.
        group: of `found.groups`; other groups' runs are not comparable.

    Returns:
        Columns `compare.FRONT`, one row per label.

    Raises:
        WorkbenchError: a figure is unknown.
    """
    from workbench import compare

    inside = found.runs[found.runs["label"].map(found.groups).fillna(0) == group]
    ids = list(inside.loc[inside["state"] == "finished", "run_id"])
    sides = [given or direction(found, name) for given, name in ((x_better, x), (y_better, y))]
    return compare.front(inside, x, y, *sides, stored.all_predictions(ids))  # type: ignore[arg-type]


def confusion(found: Comparison, label: str) -> dict[str, Any]:
    """{labels, counts}: see `disagreements.confusion`."""
    return disagreements_.confusion(found.rows, label)


def disagreements(found: Comparison, a: str, b: str, limit: int = 30) -> "pd.DataFrame":
    """The test rows on which two labels differ most: see `disagreements.disagreements`."""
    return disagreements_.disagreements(found.rows, a, b, limit)


def texts(found: Comparison, label: str, ids: Sequence[int]) -> dict[int, str]:
    """The text of test rows, through the engine (it may take a second); empty where the data is gone."""
    run = next((row["run_id"] for row in found.rows if row["label"] == label and row["state"] == "finished"), None)
    return disagreements_.ask_texts(run, ids) if run and len(ids) else {}


def direction(found: Comparison, name: str) -> str:
    """`higher` or `lower`: what is better of a test metric or figure."""
    if name in found.metrics:
        return "higher" if judging.higher(name, found.rows) else "lower"
    return "higher" if name in MORE_IS_BETTER else "lower"


def curves(rows: Sequence[dict[str, Any]], metric: str) -> "pd.DataFrame":
    """Learning curves over seeds: label, step, mean, ci_low, ci_high, n, of a validation metric or of `loss`."""
    import pandas as pd

    from workbench import compare

    points = [(row["label"], step, value) for row in rows for step, value in _points(run_folder(row["run_id"])).get(metric, ())]
    return compare.bands(pd.DataFrame(points, columns=["label", "step", "value"]), bounds=compare.bounds(metric))


def _points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    try:
        return _read_points(folder, (folder / tracked.NAME).stat().st_mtime_ns)
    except OSError:
        return {}


@lru_cache(KEPT_CURVES)
def _read_points(folder: Path, changed: int) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of the training loss, as `loss`, and of each validation metric."""
    found = runs.curves(folder)
    losses = [(one["step"], one["loss"]) for one in found["steps"] if one["loss"] is not None]
    points: dict[str, list[tuple[int, float]]] = {"loss": losses}
    held = [one for one in found["evaluations"] if one["split"] == "validation"]
    for one in sorted(held, key=lambda one: one["step"]):
        for name, value in one["metrics"].items():
            if name != "loss" and value is not None:
                points.setdefault(name, []).append((one["step"], value))
    return points
