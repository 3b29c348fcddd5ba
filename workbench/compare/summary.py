"""Means over seeds with 95 % t intervals."""

import numpy as np
import pandas as pd
from scipy import stats

from workbench.core.errors import unknown

SIZES = ("trainable_params", "head_params", "total_params", "adapter_bytes", "peak_memory_bytes")
TIMINGS = ("train_seconds", "examples_per_second")  # untrue when other runs shared the machine
FIGURES = SIZES + TIMINGS
SUMMARY = ("label", "method", "metric", "n", "mean", "ci_low", "ci_high")


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean of independent values.

    Args:
        values: the finite values, shape (n,).
        level: its coverage where values are normal.

    Returns:
        (low, high); NaN for n < 2, because one run says nothing about spread.
    """
    values = np.asarray(values, dtype=float)
    if values.size < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf((1 + level) / 2, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return float(values.mean() - half), float(values.mean() + half)


def summary(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One figure per label, over its finished runs with a finite value.

    Args:
        rows: one row per run.
        metric: a test metric (`accuracy`) or a column (`train_seconds`). Timings of runs that had neighbours are left out.

    Returns:
        Columns label, method, metric, n, mean, ci_low, ci_high in the labels' order; n = 0 has no mean, n < 2 no interval (NaN).

    Raises:
        WorkbenchError: no column holds the figure.
    """
    column = f"metrics.{metric}" if f"metrics.{metric}" in rows.columns else metric
    if column not in rows.columns:
        raise unknown("metric", metric, metrics(rows))
    usable = _finished(rows)
    if metric in TIMINGS and "neighbours" in usable.columns:
        usable = usable[~usable["neighbours"].fillna(False).astype(bool)]
    values = pd.to_numeric(usable[column], errors="coerce").replace([np.inf, -np.inf], np.nan)
    out = []
    for label, method in _entries(rows):
        found = values[usable["label"] == label].dropna().to_numpy(dtype=float)
        low, high = interval(found)
        mean = float(found.mean()) if found.size else float("nan")
        out.append((label, method, metric, int(found.size), mean, low, high))
    return pd.DataFrame(out, columns=list(SUMMARY))


def summaries(rows: pd.DataFrame) -> pd.DataFrame:
    """`summary` of every test metric and figure, one below the other."""
    parts = [summary(rows, metric) for metric in metrics(rows)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(SUMMARY))


def metrics(rows: pd.DataFrame) -> list[str]:
    """The names that `summary` knows here: test metrics first, then figures."""
    tests = [column.removeprefix("metrics.") for column in rows.columns if str(column).startswith("metrics.")]
    return tests + [figure for figure in FIGURES if figure in rows.columns]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per label: label, method, runs (all), n (finished), then each metric's and figure's mean under its own name.

    An interval stands beside its mean as `<name>.ci_low` and `<name>.ci_high`.
    """
    if rows.empty:
        return pd.DataFrame(columns=["label", "method", "runs", "n"])
    done = _finished(rows)
    out = pd.DataFrame(_entries(rows), columns=["label", "method"])
    out["runs"] = [int((rows["label"] == label).sum()) for label in out["label"]]
    out["n"] = [int((done["label"] == label).sum()) for label in out["label"]]
    for metric in metrics(rows):
        found = summary(rows, metric)
        out[metric], out[f"{metric}.ci_low"], out[f"{metric}.ci_high"] = found["mean"], found["ci_low"], found["ci_high"]
    return out


def _finished(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["state"] == "finished"] if "state" in rows.columns else rows


def _entries(rows: pd.DataFrame) -> list[tuple[str, str]]:
    method = rows["method"] if "method" in rows.columns else rows["label"]
    return list(dict(zip(rows["label"], method, strict=True)).items())
