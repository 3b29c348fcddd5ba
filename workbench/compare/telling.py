"""One plain sentence per pair of labels."""

import math
from collections.abc import Mapping
from typing import Any

from workbench.compare.rowwise import is_share

FEW = 3
"""Up to this many seeds the spread seen is so uncertain that the seeds it would take are a guess."""


def tell(row: Mapping[str, Any], most: int, higher: bool, count: int) -> str:
    """What a pair's figures say.

    Args:
        row: a row of `pairs`, without its sentence; `rows_wanted` where test rows are the limit.
        most: seeds of the label that has more of them.
        higher: whether more is better.
        count: how many pairs are judged together.
    """
    a, b, n = row["a"], row["b"], row["n"]
    if n == 0:
        return f"{a} and {b} have no seed in common: run both with the same seeds to compare them."
    said = f"{a} − {b} = {_interval(row)}"
    if row["test"] == "none":
        return f"{said}: one common seed and no stored predictions, so nothing can be told."
    if row["p"] == 1.0 and math.isnan(row["ci_low"]):
        return f"{said}: the answers are the same on every test row{'' if n > 1 else ' of this one seed'}."
    if math.isnan(row["p"]):
        return f"{said}: every seed gives the same difference and no predictions are stored, so chance cannot be judged."
    return " ".join([f"{said}: {_verdict(row, higher, count)}", *_limits(row, most)])


def _interval(row: Mapping[str, Any]) -> str:
    share = is_share(row["metric"])
    scale = 100.0 if share else 1.0
    values = [row[name] * scale for name in ("difference", "ci_low", "ci_high")]
    width = (values[2] - values[1]) / 2 if math.isfinite(values[1]) else abs(values[0])
    fine = -math.floor(math.log10(width)) + (0 if share else 1) if width > 0 else 1
    said = [signed(value, min(max(fine, 1), 6)) for value in values]
    name = row["metric"].replace("_", " ").replace("/", " on ")
    unit = "points" if row["metric"] == "accuracy" else f"points of {name}" if share else name
    return f"{said[0]} {unit}" + (f" ({said[1]} to {said[2]})" if math.isfinite(values[1]) else "")


def signed(value: float, digits: int) -> str:
    """A number with its sign, a true minus, and no negative zero."""
    text = f"{value:+,.{digits}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else f"{0:.{digits}f}"


def _verdict(row: Mapping[str, Any], higher: bool, count: int) -> str:
    if row["verdict"] != "cannot tell":
        best = row["a"] if row["verdict"] == "better" else row["b"]
        return f"{best} is better{'' if higher else ' (lower is better)'}."
    excludes = row["ci_low"] > 0 or row["ci_high"] < 0
    said = f"cannot tell once all {count} pairs are counted" if excludes and count > 1 else "cannot tell"
    match row["limit"]:
        case "seeds":
            more = row["more_seeds"]
            rough = f" (a rough guess from {row['n']} seeds)" if 1 < row["n"] <= FEW else ""
            return f"{said}; about {more} more {'seed' if more == 1 else 'seeds'} would{rough}."
        case "rows":
            wanted = f"at least about {_rounded_up(row['rows_wanted']):,} test rows, and there are {row['examples']:,}"
            return f"{said}; more seeds alone would not: it takes {wanted}."
        case "difference":
            return f"{said}; a difference this small is out of reach of 200 seeds."
    return f"{said}."


def _rounded_up(count: int) -> int:
    """At most two digits that are not zero: an estimate is no more exact."""
    unit = 10 ** max(len(str(count)) - 2, 0)
    return -(-count // unit) * unit


def _limits(row: Mapping[str, Any], most: int) -> list[str]:
    """What else a reader must know."""
    n, said = row["n"], []
    if n == 1:
        said.append("One common seed: this is about these two trained adapters only, not about the methods.")
    elif n < most:
        said.append(f"Judged on the {n} seeds they share.")
    if row["test"] == "seeds":
        said.append("Judged over seeds only, on these test rows: predictions that give this metric are not stored.")
    return said
