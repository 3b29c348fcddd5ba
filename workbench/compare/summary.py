"""Means over seeds with 95 % t intervals."""

import numpy as np
import pandas as pd
from scipy import stats

from workbench.compare import rowwise
from workbench.core.errors import unknown

SIZES = ("trainable_params", "head_params", "total_params", "adapter_bytes", "peak_memory_bytes")
TIMINGS = ("train_seconds", "examples_per_second")  # untrue when other runs shared the machine
FIGURES = SIZES + TIMINGS
SUMMARY = ("label", "method", "metric", "n", "mean", "ci_low", "ci_high")


def interval(values: np.ndarray, level: float = 0.95, bounds: tuple[float, float] = (-np.inf, np.inf)) -> tuple[float, float]:
    """Student's t interval of the mean of independent values.

    Args:
        values: the finite values, shape (n,).
        level: its coverage where values are normal.
        bounds: what the mean can be at all; the interval is cut there, which cannot cost coverage.

    Returns:
        (low, high); NaN for n < 2, because one run says nothing about spread.
    """
    values = np.asarray(values, dtype=float)
    if values.size < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf((1 + level) / 2, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return max(float(values.mean() - half), bounds[0]), min(float(values.mean() + half), bounds[1])


def summary(rows: pd.DataFrame, metric: str, level: float = 0.95) -> pd.DataFrame:
    """One figure per label, over its finished runs with a finite value.

    Args:
        rows: one row per run.
        metric: a test metric (`accuracy`) or a column (`train_seconds`). Timings of runs that had neighbours are left out.
        level: coverage of the intervals, which are cut at the metric's bounds (shares lie between 0 and 1).

    Returns:
        Columns label, method, metric, n, mean, ci_low, ci_high in the labels' order; n = 0 has no mean, n < 2 no interval (NaN).

    Raises:
        WorkbenchError: no column holds the figure.
    """
    column = f"metrics.{metric}" if f"metrics.{metric}" in rows.columns else metric
    if column not in rows.columns:
        raise unknown("metric", metric, metrics(rows))
    done = finished(rows)
    if metric in TIMINGS and "neighbours" in done.columns:
        done = done[~done["neighbours"].fillna(False).astype(bool)]
    entries = _entries(rows)
    values = np.asarray(pd.to_numeric(done[column], errors="coerce"), dtype=float)
    known = np.isfinite(values)
    values, place = values[known], pd.Index([label for label, _ in entries]).get_indexer(done["label"])[known]
    n = np.bincount(place, minlength=len(entries))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.bincount(place, values, len(entries)) / n
        spread = np.sqrt(np.bincount(place, np.square(values - mean[place]), len(entries)) / (n - 1))
        half = stats.t.ppf((1 + level) / 2, np.maximum(n - 1, 1)) * np.where(n > 1, spread, np.nan) / np.sqrt(n)
    low, high = rowwise.bounds(metric)
    labels, methods = zip(*entries, strict=True) if entries else ((), ())
    out = {"label": labels, "method": methods, "metric": metric, "n": n, "mean": mean}
    return pd.DataFrame({**out, "ci_low": np.maximum(mean - half, low), "ci_high": np.minimum(mean + half, high)})


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
    done = finished(rows)
    out = pd.DataFrame(_entries(rows), columns=["label", "method"])
    for name, some in (("runs", rows), ("n", done)):
        out[name] = some["label"].value_counts().reindex(out["label"], fill_value=0).to_numpy()
    for metric in metrics(rows):
        found = summary(rows, metric)
        out[metric], out[f"{metric}.ci_low"], out[f"{metric}.ci_high"] = found["mean"], found["ci_low"], found["ci_high"]
    return out


def finished(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that count: finished runs, or all where no state is given."""
    return rows.loc[rows["state"] == "finished"] if "state" in rows.columns else rows


def _entries(rows: pd.DataFrame) -> list[tuple[str, str]]:
    method = rows["method"] if "method" in rows.columns else rows["label"]
    return list(dict(zip(rows["label"], method, strict=True)).items())
