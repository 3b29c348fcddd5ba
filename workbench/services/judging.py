"""Which of two methods is better, from finished runs: what is judged, over which runs, and what is not overlaid."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from workbench.services import stored

if TYPE_CHECKING:
    import pandas as pd

    from workbench.compare import Guard

MOST_LABELS = 40
"""Pairs grow with the square of the labels; beyond this nobody reads them and Holm leaves nothing standing."""
TOO_MANY = f"Pairs are judged for at most {MOST_LABELS} methods at once; choose fewer."


def headline(rows: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
    """(the metric that counts, whether more of it is better): what the first finished run's task puts first."""
    from workbench import compare

    row = next((row for row in rows if row["metrics"]), None)
    if row is None:
        return "", True
    metric = next(iter(row["metrics"]))
    better = compare.higher_is_better(metric)
    return metric, _told_by_task(row["task"]) if better is None else better


def _told_by_task(task: str) -> bool:
    from workbench.services import catalogue

    return next((bool(one["greater_is_better"]) for one in catalogue.everything()["tasks"] if one["key"] == task), True)


def higher(metric: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether more of a metric is better."""
    from workbench import compare

    known = compare.higher_is_better(metric)
    return headline(rows)[1] if known is None else known


def guard(rows: Sequence[Mapping[str, Any]]) -> "Guard":
    """What may be overlaid."""
    from workbench import compare

    return compare.guard([row for row in rows if row["state"] == "finished"] or rows)


def too_many(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there are more labels than are judged in pairs."""
    return len({row["label"] for row in rows if row["state"] == "finished"}) > MOST_LABELS


def pairs(rows: Sequence[Mapping[str, Any]], metric: str, more_is_better: bool, groups: Mapping[str, int]) -> "pd.DataFrame":
    """Every pair of labels that may be overlaid, judged on finished runs; kept until a run changes.

    Args:
        rows: rows of a comparison.
        metric: a test metric; runs without it are left out.
        more_is_better: its direction.
        groups: label -> group of the guard.

    Returns:
        A frame with the columns `compare.PAIRS`; empty for more than `MOST_LABELS` labels.
    """
    runs = tuple(
        (row["label"], row["seed"], row["run_id"], row["attempt"], row["metrics"][metric], groups.get(row["label"], 0))
        for row in rows
        if row["state"] == "finished" and row["metrics"].get(metric) is not None
    )
    return _judged(metric, more_is_better, () if too_many(rows) else runs).copy()


@lru_cache(16)
def _judged(metric: str, more_is_better: bool, runs: tuple[tuple, ...]) -> "pd.DataFrame":
    import pandas as pd

    from workbench import compare

    table = pd.DataFrame(runs, columns=["label", "seed", "run_id", "attempt", f"metrics.{metric}", "group"])
    groups = dict(zip(table["label"], table["group"], strict=True))
    return compare.pairs(table, metric, stored.all_predictions(list(table["run_id"])), more_is_better, groups)
