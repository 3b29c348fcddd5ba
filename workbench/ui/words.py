"""Numbers for people."""

import math
from typing import Any

from workbench.services import tables

DASH = "–"


def count(value: int | float | None) -> str:
    """12,345."""
    return DASH if missing(value) else f"{value:,.0f}"


def short(value: int | float | None) -> str:
    """12.3 k, 4.5 M: for tiles and axes."""
    if missing(value):
        return DASH
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g}"


def size(value: int | float | None) -> str:
    """Bytes with their unit."""
    return DASH if missing(value) else str(tables.size(value))


def duration(seconds: float | None) -> str:
    """0.8 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if missing(seconds):
        return DASH
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def score(value: float | None) -> str:
    """A metric: 0.912."""
    return DASH if missing(value) else f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def rate(value: float | None) -> str:
    """A learning rate: 2e-03 as 0.002."""
    return DASH if missing(value) else f"{value:g}"


def title(name: str) -> str:
    """`token_accuracy` as `Token accuracy`."""
    words = name.replace("_", " ").replace(" f1", " F1").strip()
    return words[:1].upper() + words[1:]


def missing(value: Any) -> bool:
    """Whether there is nothing to show."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))
