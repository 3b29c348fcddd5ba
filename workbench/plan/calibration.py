"""What past predictions teach: the factor between what was predicted and what was measured, and how far predictions were off."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

ENOUGH = 3
"""Finished runs from which on a factor is used; fewer are told, not used."""


@dataclass(frozen=True)
class Past:
    """One figure of one finished run.

    Attributes:
        raw: what the formulas said.
        said: what the plan showed at the time, its factor included.
        measured: what it was.
    """

    raw: float
    said: float
    measured: float


@dataclass(frozen=True)
class Factor:
    """What the past runs say about one figure; everything but `n` is None without any.

    Attributes:
        n: finished runs it is taken from.
        factor: median of measured / raw. Always over the raw predictions, so that a calibrated one is not corrected twice.
        low, high: quartiles of the same ratios; None below two runs.
        error: median of |said - measured| / measured, as the plans showed it at the time.
    """

    n: int = 0
    factor: float | None = None
    low: float | None = None
    high: float | None = None
    error: float | None = None

    @property
    def used(self) -> bool:
        """Whether there are enough runs to multiply predictions by it."""
        return self.n >= ENOUGH

    @property
    def by(self) -> float:
        """What a raw prediction is multiplied by: 1 while it is not used."""
        return self.factor if self.used and self.factor is not None else 1.0


def learn(past: Sequence[Past]) -> Factor:
    """The factor of some finished runs; runs without a positive prediction and measurement say nothing."""
    known = [p for p in past if p.raw > 0 and p.measured > 0]
    if not known:
        return Factor()
    ratios = [p.measured / p.raw for p in known]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else (None, None, None)
    error = statistics.median(abs(p.said - p.measured) / p.measured for p in known)
    return Factor(len(known), statistics.median(ratios), low, high, error)
