"""Learning curves over seeds."""

import numpy as np
import pandas as pd
from scipy import stats

BANDS = ("label", "step", "mean", "ci_low", "ci_high", "n")


def bands(points: pd.DataFrame, level: float = 0.95, bounds: tuple[float, float] = (-np.inf, np.inf)) -> pd.DataFrame:
    """Mean and t interval of one figure at each step, over the runs of a label.

    Args:
        points: columns label, step, value, one row per run and step.
        level: coverage of the interval.
        bounds: what the figure can be at all; the interval is cut there.

    Returns:
        Columns label, step, mean, ci_low, ci_high, n, by label (in order of appearance) and step; n < 2 has no interval (NaN).
    """
    if points.empty:
        return pd.DataFrame(columns=list(BANDS))
    finite = points[np.isfinite(pd.to_numeric(points["value"], errors="coerce"))]
    grouped = finite.groupby(["label", "step"], sort=False)["value"].agg(["mean", "std", "count"]).reset_index()
    order = {label: i for i, label in enumerate(pd.unique(points["label"]))}
    grouped = grouped.sort_values(["label", "step"], key=lambda c: c.map(order) if c.name == "label" else c, ignore_index=True)
    n = grouped["count"].to_numpy()
    half = stats.t.ppf((1 + level) / 2, np.maximum(n - 1, 1)) * grouped["std"].to_numpy() / np.sqrt(n)  # std is NaN for n = 1
    low, high = grouped["mean"] - half, grouped["mean"] + half
    grouped = grouped.assign(ci_low=low.clip(lower=bounds[0]), ci_high=high.clip(upper=bounds[1]), n=n)
    return grouped.reindex(columns=list(BANDS))
