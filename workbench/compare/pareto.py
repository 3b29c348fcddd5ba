"""Which runs or methods nobody beats in two figures at once."""

from typing import Literal

import numpy as np
import pandas as pd

from workbench.core.errors import WorkbenchError, unknown

Better = Literal["higher", "lower"]


def pareto(rows: pd.DataFrame, x: str, y: str, x_better: Better, y_better: Better) -> pd.Series:
    """Mark the rows on the Pareto front.

    Args:
        rows: any frame with the columns `x` and `y`.
        x, y: columns to weigh against each other.
        x_better, y_better: `higher` or `lower`.

    Returns:
        Booleans on the index of `rows`: True where no other row is at least as good in both and better in one. Rows with a
        missing figure are never on the front; equal rows are on it together.

    Raises:
        WorkbenchError: a column is missing or a direction is neither word.
    """
    costs = [_cost(rows, name, better) for name, better in ((x, x_better), (y, y_better))]
    known = np.isfinite(costs[0]) & np.isfinite(costs[1])
    front = np.zeros(len(rows), dtype=bool)
    best = best_x = np.inf
    for i in np.lexsort((costs[1], costs[0])):
        if known[i] and (costs[1][i] < best or (costs[1][i] == best and costs[0][i] == best_x)):
            front[i], best, best_x = True, costs[1][i], costs[0][i]
    return pd.Series(front, index=rows.index, name="pareto")


def _cost(rows: pd.DataFrame, name: str, better: str) -> np.ndarray:
    if name not in rows.columns:
        raise unknown("column", name, map(str, rows.columns))
    if better not in ("higher", "lower"):
        raise WorkbenchError(f"the better direction of {name} must be higher or lower; got {better!r}.")
    values = np.asarray(pd.to_numeric(rows[name], errors="coerce"), dtype=float)
    return -values if better == "higher" else values
