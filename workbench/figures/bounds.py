"""Ranges, and which values can be drawn at all."""

import math
from collections.abc import Iterable

import pandas as pd

from workbench.figures import words


def complete(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Rows in which all these columns hold finite numbers; none where a column is missing."""
    if any(c not in frame.columns for c in columns):
        return pd.DataFrame(columns=[*frame.columns, *(c for c in columns if c not in frame.columns)])
    numbers = frame[list(columns)].apply(pd.to_numeric, errors="coerce").replace([math.inf, -math.inf], math.nan)
    return frame.loc[numbers.notna().all(axis=1).to_numpy()]


def bounds(dots: Iterable[float], ends: Iterable[tuple[float | None, float | None]]) -> list[float] | None:
    """A range that shows every dot; a wide interval of few seeds may leave it, else it would flatten everything.

    Args:
        dots: single values, all finite.
        ends: of intervals; missing ones are skipped.
    """
    held = list(dots)
    if not held:
        return None
    low, high = min(held), max(held)
    room = max(high - low, abs(high) * 0.02, 1e-6)
    known = [(a, b) for a, b in ends if not (words.missing(a) or words.missing(b))]
    least = max(min([low, *(a for a, _ in known)]), low - room)
    most = min(max([high, *(b for _, b in known)]), high + room)
    start, end = least - 0.1 * room, most + 0.1 * room
    return [max(start, -0.03 * end) if low >= 0 else start, end]  # what cannot be negative starts at zero


def interval(low: float | None, mean: float, high: float | None, colour: str) -> dict | None:
    """Error bars of one mean in Plotly's words; None without an interval."""
    if words.missing(low) or words.missing(high):
        return None
    sides = {"array": [high - mean], "arrayminus": [mean - low]}
    return {"type": "data", "symmetric": False, **sides, "color": colour, "thickness": 1.5, "width": 5}
