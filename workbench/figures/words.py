"""Numbers for people."""

import math
from typing import Any

from typing_extensions import TypeIs

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
    if missing(value):
        return DASH
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


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


def milliseconds(seconds: float | None) -> str:
    """4.25 ms, 390 ms: for what is compared by it."""
    return DASH if missing(seconds) else f"{seconds * 1000:,.{2 if seconds < 0.01 else 1 if seconds < 0.1 else 0}f} ms"


def score(value: float | None) -> str:
    """A metric: 0.912."""
    return DASH if missing(value) else f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def signed(value: float | None, digits: int = 2) -> str:
    """A difference: +0.40, −1.25."""
    return DASH if missing(value) else f"{value:+.{digits}f}".replace("-", "−")


def share(value: float | None) -> str:
    """0.25 as 25 %."""
    return DASH if missing(value) else f"{100 * value:.0f} %"


def chance(value: float | None) -> str:
    """A p value: 0.039, or < 0.001."""
    return DASH if missing(value) else "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def rate(value: float | None) -> str:
    """A learning rate: 2e-03 as 0.002."""
    return DASH if missing(value) else f"{value:g}"


def title(name: str) -> str:
    """`token_accuracy` as `Token accuracy`."""
    words = name.replace("_", " ").replace(" f1", " F1").strip()
    return words[:1].upper() + words[1:]


def listed(names: list[str], most: int = 6) -> str:
    """a, b and c; what goes beyond `most` is counted."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1] if names else ""]))


def missing(value: Any) -> TypeIs[None]:
    """Whether there is nothing to show: None, NaN or infinite; what is left is a number."""
    return value is None or (isinstance(value, float) and not math.isfinite(value)) or type(value).__name__ == "NAType"
