"""Who stands on the Pareto front, and how sure that is."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd

from workbench.compare import rowwise
from workbench.compare.pareto import Better, pareto
from workbench.compare.summary import finished, summary

FRONT = ("label", "method", "n", "x", "x_low", "x_high", "y", "y_low", "y_high", "pareto", "probability", "over")
Over = Literal["seeds and rows", "seeds", "rows", ""]


def front(
    rows: pd.DataFrame,
    x: str,
    y: str,
    x_better: Better,
    y_better: Better,
    predictions: Mapping[str, pd.DataFrame] | None = None,
    level: float = 0.95,
    draws: int = 2_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Weigh two figures against each other, with error crosses and the probability of standing on the front.

    The probability is that of a multiplier bootstrap: every draw gives each seed and each test row one weight that all labels
    share, so what labels have in common cancels; a label's spread over seeds is widened as Student's t is for its few seeds.

    Args:
        rows: one row per run.
        x, y: a test metric (`accuracy`) or figure (`trainable_params`).
        x_better, y_better: `higher` or `lower`.
        predictions: run id -> test predictions; with them the test rows are a sample too.
        level: coverage of the crosses, t intervals over seeds.
        draws, seed: of the bootstrap.

    Returns:
        Columns `FRONT`, one row per label. `pareto` judges the means; `over` says what was drawn again: with `rows` alone (one
        seed) the probability is about these trained adapters only, with nothing it is missing (NaN).

    Raises:
        WorkbenchError: a figure is unknown or a direction is neither word.
    """
    crosses = summary(rows, x, level).merge(summary(rows, y, level), on=["label", "method"], suffixes=("", "_y"))
    table = pd.DataFrame({"label": crosses["label"], "method": crosses["method"], "n": crosses[["n", "n_y"]].min(axis=1)})
    for name, tail in (("x", ""), ("y", "_y")):
        table[name] = crosses[f"mean{tail}"]
        table[f"{name}_low"], table[f"{name}_high"] = crosses[f"ci_low{tail}"], crosses[f"ci_high{tail}"]
    table["pareto"] = pareto(table, "x", "y", x_better, y_better).to_numpy()
    rng, done = np.random.default_rng(seed), finished(rows)
    drawn, over = _drawn(done, table, (x, y), predictions or {}, draws, rng)
    signs = np.array([-1.0 if better == "higher" else 1.0 for better in (x_better, y_better)])
    told = np.array([bool(o) for o in over]) & np.isfinite(drawn).all((0, 2))
    table["probability"] = np.where(told, _on_front(drawn * signs).mean(0), np.nan)
    table["over"] = over
    return table.reindex(columns=list(FRONT))


def _drawn(
    done: pd.DataFrame,
    table: pd.DataFrame,
    figures: tuple[str, str],
    predictions: Mapping[str, pd.DataFrame],
    draws: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[Over]]:
    """Both figures of every label, drawn again: (draws, labels, 2), and what was drawn."""
    seeds = {number: rng.standard_normal(draws) for number in sorted({int(s) for s in done["seed"]})}
    tests: dict[int, np.ndarray] = {}
    out, over = np.empty((draws, len(table), 2)), []
    for i, label in enumerate(table["label"]):
        runs = done[done["label"] == label]
        n = len(runs)
        widening = np.sqrt((n - 1) / rng.chisquare(n - 1, draws)) if n > 1 else np.zeros(draws)
        by_rows = False
        for k, figure in enumerate(figures):
            column = f"metrics.{figure}" if f"metrics.{figure}" in runs.columns else figure
            values = np.asarray(pd.to_numeric(runs[column], errors="coerce"), dtype=float)
            known = np.isfinite(values)
            out[:, i, k] = table["xy"[k]][i]
            if known.sum() > 1:
                pull = (values[known] - values[known].mean()) / np.sqrt(known.sum() * (known.sum() - 1.0))
                weights = np.stack([seeds[int(s)] for s in runs["seed"].to_numpy()[known]], 1)
                out[:, i, k] += weights @ pull * widening
            rest = _rows(runs, figure, predictions)
            if rest is not None:
                by_rows = True
                if len(rest) not in tests:
                    tests[len(rest)] = rng.standard_normal((draws, len(rest)), dtype=np.float32)
                out[:, i, k] += tests[len(rest)] @ ((rest - rest.mean()) / len(rest)).astype(np.float32)
        over.append(" and ".join([*(["seeds"] if n > 1 else []), *(["rows"] if by_rows else [])]))
    return out, over


def _rows(runs: pd.DataFrame, figure: str, predictions: Mapping[str, pd.DataFrame]) -> np.ndarray | None:
    """Mean contributions of the test rows over a label's seeds; None unless all its runs have them."""
    if rowwise.higher_is_better(figure) is None or "run_id" not in runs.columns or not len(runs):
        return None
    tables = [predictions.get(run_id) for run_id in runs["run_id"]]
    found = [None if t is None else rowwise.contributions(rowwise.rows_of(t, figure), figure) for t in tables]
    sizes = {None if one is None else len(one) for one in found}
    return np.mean([one for one in found if one is not None], axis=0) if len(sizes) == 1 and None not in sizes else None


def _on_front(costs: np.ndarray) -> np.ndarray:
    """Which labels nobody beats, lower being better: (draws, labels, 2) -> (draws, labels)."""
    first, second = costs[..., 0], costs[..., 1]
    beaten = np.zeros(first.shape, dtype=bool)
    with np.errstate(invalid="ignore"):
        for other in range(costs.shape[1]):
            x, y = first[:, other, None], second[:, other, None]
            beaten |= (x <= first) & (y <= second) & ((x < first) | (y < second))
    return ~beaten & np.isfinite(costs).all(2)
