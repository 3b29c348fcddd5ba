"""Is one label really better than another? Every pair, paired by training seed and by test row, Holm over all pairs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from workbench.compare import crossed, rowwise, single
from workbench.compare.crossed import Parts
from workbench.compare.telling import tell
from workbench.core.errors import unknown

PAIRS = (
    "a", "b", "metric", "n", "examples", "difference", "ci_low", "ci_high", "p", "p_holm", "verdict", "more_seeds", "limit",
    "test", "sentence",
)  # fmt: skip
FAMILY = 0.05
"""Chance of calling any equal pair different."""
HOPELESS = 100
"""A difference that needs this many times the test rows is too small to be pursued."""


@dataclass(frozen=True)
class _Run:
    """One finished run: its metric and, where its predictions give that metric, row ids and contributions."""

    value: float
    ids: np.ndarray | None = None
    rows: np.ndarray | None = None


@dataclass
class _Case:
    """One pair: differences by seed (n,), or (n, examples) where rows are known, and what is found out about them."""

    a: str
    b: str
    by_seed: np.ndarray
    rows: np.ndarray | None
    most: int
    row: dict[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.by_seed)

    @property
    def examples(self) -> int:
        return 0 if self.rows is None else self.rows.shape[1]

    def parts(self) -> Parts:
        if self.rows is not None:
            return crossed.parts(self.rows)
        variance = self.by_seed.var(ddof=1) / self.n
        return Parts(*(np.asarray(v) for v in (self.by_seed.mean(), variance, 0.0, self.n, 0)))


def pairs(
    rows: pd.DataFrame,
    metric: str,
    predictions: Mapping[str, pd.DataFrame] | None = None,
    higher: bool = True,
    groups: Mapping[str, int] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare every two labels on their common seeds.

    Two or more common seeds: `crossed` (another seed and another test sample), or a paired t test over `seeds` where predictions
    are not stored. One common seed: McNemar (accuracy) or a paired permutation over test rows, the interval by bootstrap
    over rows: true for these two adapters only.

    Args:
        rows: one row per run: label, seed, state, run_id and `metrics.<metric>`.
        metric: a test metric.
        predictions: run id -> columns id, label, prediction, score, loss, weight of the test split.
        higher: whether more is better.
        groups: label -> group; labels of different groups, and runs on different test rows, are never paired.
        level: coverage of the intervals; the verdict is at 5 % over all pairs (Holm).
        seed: of resampling.

    Returns:
        Columns `PAIRS`, one row per pair in the labels' order. `difference` is a - b in the metric's own unit; `n` common seeds,
        `examples` common test rows (0 = not used); `verdict` says whether a is better, worse, or "cannot tell"; `more_seeds`
        would give a difference of the size seen an 80 % chance to count; `limit` is what the verdict waits for: `seeds`, `rows`
        or `difference` (too small), empty otherwise.

    Raises:
        WorkbenchError: no column holds the metric.
    """
    if f"metrics.{metric}" not in rows.columns:
        raise unknown("metric", metric, [str(c).removeprefix("metrics.") for c in rows.columns if str(c).startswith("metrics.")])
    runs = _runs(rows, metric, predictions or {})
    together = [(a, b) for a, b in combinations(runs, 2) if groups is None or groups.get(a) == groups.get(b)]
    cases = [case for a, b in together if (case := _case(a, b, runs[a], runs[b])) is not None]
    _several([case for case in cases if case.n > 1], level)
    _one([case for case in cases if case.n == 1], metric, level, seed)
    _judge(cases, higher)
    table = pd.DataFrame([_row(case, metric, higher, len(cases)) for case in cases], columns=list(PAIRS))
    return table.astype({"more_seeds": "Int64", **dict.fromkeys(("difference", "ci_low", "ci_high", "p", "p_holm"), float)})


def _runs(rows: pd.DataFrame, metric: str, predictions: Mapping[str, pd.DataFrame]) -> dict[str, dict[int, _Run]]:
    """Label -> seed -> finished run with a finite value, in order of appearance."""
    tables = {run_id: rowwise.rows_of(table, metric) for run_id, table in predictions.items()}
    asked = _asked(tables) if rowwise.kind(metric) == "exact_match" else {}
    found: dict[str, dict[int, _Run]] = {}
    names = ("label", "seed", "state", "run_id", f"metrics.{metric}")
    columns = [rows[name] if name in rows.columns else [None] * len(rows) for name in names]
    for label, number, state, run_id, value in zip(*columns, strict=True):
        value = float("nan") if value is None else float(value)
        if state not in ("finished", None) or not np.isfinite(value):
            continue
        found.setdefault(label, {})[int(number)] = _run(tables.get(run_id), metric, value, asked)
    return found


def _asked(predictions: Mapping[str, pd.DataFrame]) -> dict[bytes, np.ndarray]:
    """Row ids -> rows that any run answered: an empty answer of one run is still an answer."""
    found: dict[bytes, np.ndarray] = {}
    for table in predictions.values():
        key = table["id"].to_numpy().tobytes()
        found[key] = found.get(key, False) | (table["prediction"].to_numpy() != "")
    return found


def _run(table: pd.DataFrame | None, metric: str, value: float, asked: Mapping[bytes, np.ndarray]) -> _Run:
    if table is None or len(table) < 2:
        return _Run(value)
    ids = table["id"].to_numpy()
    rows = rowwise.contributions(table, metric, asked.get(ids.tobytes()))
    if rows is None or abs(rows.mean() - value) > 1e-6 * max(1.0, abs(value)):  # the file does not tell this metric
        return _Run(value, ids)
    return _Run(value, ids, rows)


def _case(a: str, b: str, left: Mapping[int, _Run], right: Mapping[int, _Run]) -> _Case | None:
    """The differences of a pair; None where the test rows are not the same."""
    seeds = sorted(left.keys() & right.keys())
    both = [run for seed in seeds for run in (left[seed], right[seed])]
    ids = next((run.ids for run in both if run.ids is not None), None)
    if any(run.ids is not None and not np.array_equal(run.ids, ids) for run in both):
        return None
    by_seed = np.array([left[seed].value - right[seed].value for seed in seeds])
    known = [(left[seed].rows, right[seed].rows) for seed in seeds]
    whole = bool(seeds) and all(x is not None and y is not None for x, y in known)
    rows = np.stack([x - y for x, y in known]) if whole else None  # type: ignore[operator]
    return _Case(a, b, by_seed, rows, max(len(left), len(right)))


def _several(cases: list[_Case], level: float) -> None:
    """Two or more common seeds."""
    if not cases:
        return
    found = Parts(*(np.stack(values) for values in zip(*(case.parts() for case in cases), strict=True)))
    half, p = crossed.half_width(found, 1 - level), crossed.p_values(found)
    for i, case in enumerate(cases):
        test = "seeds" if case.rows is None else "crossed"
        case.row = {"difference": float(found.mean[i]), "p": float(p[i]), "test": test, "parts": Parts(*(v[i] for v in found))}
        if case.rows is not None and not case.rows.any():  # equal answers everywhere
            case.row |= {"p": 1.0}
        elif np.isfinite(p[i]):
            case.row |= {"ci_low": float(found.mean[i] - half[i]), "ci_high": float(found.mean[i] + half[i])}


def _one(cases: list[_Case], metric: str, level: float, seed: int) -> None:
    """One common seed: only the test rows are a sample."""
    for case in cases:
        case.row = {"difference": float(case.by_seed[0]), "test": "none"}
    known = [case for case in cases if case.rows is not None]
    answers = rowwise.kind(metric) == "accuracy"
    for size in {case.examples for case in known}:
        some = [case for case in known if case.examples == size]
        differences = np.stack([case.rows[0] for case in some])  # type: ignore[index]
        low, high = single.bootstrap(differences, level, seed)
        if answers:
            p = np.array([single.mcnemar(int((one > 0).sum()), int((one < 0).sum())) for one in differences])
        else:
            p = single.permutation(differences, seed)
        for i, case in enumerate(some):
            case.row |= {"p": float(p[i]), "test": "mcnemar" if answers else "permutation"}
            if differences[i].any():
                case.row |= {"ci_low": float(low[i]), "ci_high": float(high[i])}


def holm(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Holm's step-down correction of finite p values.

    Returns:
        (adjusted p values, the level each p is held against), each of p's shape.
    """
    order = np.argsort(p, kind="stable")
    left = len(p) - np.arange(len(p))
    adjusted, levels = np.empty(len(p)), np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(left * p[order]), 1.0)
    levels[order] = FAMILY / left
    return adjusted, levels


def _judge(cases: list[_Case], higher: bool) -> None:
    """Correct for the number of pairs, decide, and say what an open pair waits for."""
    judged = [case for case in cases if np.isfinite(case.row.get("p", np.nan))]
    if not judged:
        return
    adjusted, levels = holm(np.array([case.row["p"] for case in judged]))
    for case, p in zip(judged, adjusted, strict=True):
        good = (case.row["difference"] > 0) == higher
        verdict = ("better" if good else "worse") if p < FAMILY else "cannot tell"
        case.row |= {"p_holm": float(p), "verdict": verdict}
    waiting = [i for i, c in enumerate(judged) if c.n > 1 and c.row["verdict"] == "cannot tell" and c.row["difference"] != 0]
    if waiting:
        _wait([judged[i] for i in waiting], levels[waiting])


def _wait(cases: list[_Case], alpha: np.ndarray) -> None:
    found = Parts(*(np.array(values) for values in zip(*(case.row["parts"] for case in cases), strict=True)))
    seeds = crossed.seeds_wanted(found.mean, found, alpha)
    rows = crossed.rows_wanted(found.mean, found, alpha)
    by_seeds = crossed.seeds_wanted(found.mean, found._replace(v_rows=np.zeros(len(cases))), alpha)  # were test rows free
    for i, case in enumerate(cases):
        if np.isfinite(seeds[i]):
            case.row |= {"limit": "seeds", "more_seeds": max(int(seeds[i]) - case.n, 1)}
        elif np.isfinite(by_seeds[i]) and rows[i] <= HOPELESS * case.examples:
            case.row |= {"limit": "rows", "rows_wanted": max(int(rows[i]), case.examples + 1)}
        else:
            case.row |= {"limit": "difference"}


def _row(case: _Case, metric: str, higher: bool, count: int) -> dict[str, Any]:
    empty = dict.fromkeys(("difference", "ci_low", "ci_high", "p", "p_holm"), float("nan"))
    usual = {"verdict": "cannot tell", "more_seeds": pd.NA, "limit": "", "test": "none"}
    row = {**empty, **usual, **case.row, "a": case.a, "b": case.b, "metric": metric, "n": case.n, "examples": case.examples}
    return {**row, "sentence": tell(row, case.most, higher, count)}
