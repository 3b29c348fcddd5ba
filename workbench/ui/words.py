"""Numbers for people, as the figures write them."""

from workbench.figures.words import (
    DASH,
    chance,
    count,
    duration,
    listed,
    missing,
    rate,
    score,
    share,
    short,
    signed,
    size,
    title,
)  # fmt: skip

__all__ = [
    "DASH", "chance", "count", "duration", "listed", "missing", "rate", "score", "share", "short", "signed", "size", "title",
]  # fmt: skip
