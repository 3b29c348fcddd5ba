"""Differences measured on the same test rows with several training seeds: both are samples, and both must count.

Model, for the difference of two labels on seed s and row i:

    D[s, i] = delta + seed[s] + row[i] + rest[s, i]
    Var(mean) = V_seeds + V_rows
    V_seeds = var over seeds of the seeds' means / S        (estimated with S - 1 degrees of freedom)
    V_rows  = (MS_rows - MS_rest) / (S N), at least 0       (N - 1 degrees of freedom)

so delta is a claim about another seed and another test sample, not about these. With so few seeds no exact test exists (it is
the Behrens-Fisher problem). A difference counts when |mean| > c sqrt(V), where c is a power mean of the two t quantiles, weighted
by their shares of V. Its exponent is 1 / (S - 1) at a level of 5 % (1 is the rule of Cochran and Cox) and rises to 2 (Banerjee's
rule, which never errs more often than its level) at 0.5 % and below, where Holm's correction holds p values of many pairs.

Simulated with equal methods, 0/1 answers, 100 to 2000 rows, seven mixtures of seed and row variance (docs/measures.md), at 5 %:
2 seeds err in 2-7 %, 3 to 10 seeds in 3-6 %. On the same worlds a t test over seeds alone errs in 4-34 % (it takes the test rows
for the population), a McNemar test of all seeds pooled in 3-86 % (it takes the seeds for independent rows), and Satterthwaite's
degrees of freedom in up to 14 % with 2 seeds. With 2 seeds and small test sets the test is careful, never bold.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

MOST_SEEDS = 200
"""Beyond this many seeds a recommendation would be no help."""
_MIDPOINTS = (np.arange(64) + 0.5) / 64


class Parts(NamedTuple):
    """Means of differences and where their variance comes from; every entry is a float or an array of one shape.

    Attributes:
        mean: the difference.
        v_seeds, v_rows: parts of its variance.
        seeds, rows: how many of each; `rows` 0 = only the seeds' own means are known.
    """

    mean: np.ndarray
    v_seeds: np.ndarray
    v_rows: np.ndarray
    seeds: np.ndarray
    rows: np.ndarray


def parts(differences: np.ndarray) -> Parts:
    """Split the variance of a mean over seeds and rows.

    Args:
        differences: (..., seeds, rows), at least 2 x 2; leading axes are separate comparisons.
    """
    seeds, rows = differences.shape[-2:]
    by_seed, by_row = differences.mean(-1), differences.mean(-2)
    mean = by_seed.mean(-1)
    ms_seeds = rows * by_seed.var(-1, ddof=1)
    ms_rows = seeds * by_row.var(-1, ddof=1)
    total = np.square(differences - mean[..., None, None]).sum((-2, -1))
    rest = np.maximum(total - (seeds - 1) * ms_seeds - (rows - 1) * ms_rows, 0) / ((seeds - 1) * (rows - 1))
    size = seeds * rows
    v_seeds = np.maximum(ms_seeds, rest / rows) / size  # two seeds may tie on counted answers; the grid has this variance
    v_rows = np.maximum(ms_rows - rest, 0) / size
    return Parts(mean, v_seeds, v_rows, np.full(mean.shape, seeds), np.full(mean.shape, rows))


def critical(share: np.ndarray, seeds: np.ndarray, rows: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """How many standard errors a mean must be from 0 to count at level `alpha`.

    Args:
        share: the part of the variance that comes from seeds, 0 to 1.
        seeds, rows: sample sizes; rows = 0 means that all of it does.
        alpha: two-sided level.
    """
    start = 1 / np.maximum(seeds - 1, 1)
    exponent = start + (2 - start) * np.clip(np.log10(0.05 / alpha), 0, 1)
    few = stats.t.isf(alpha / 2, np.maximum(seeds - 1, 1))
    many = stats.t.isf(alpha / 2, np.where(rows > 1, rows - 1, np.maximum(seeds - 1, 1)))
    top = np.maximum(few, many)  # factored out, so that no power overflows
    return top * (share * (few / top) ** exponent + (1 - share) * (many / top) ** exponent) ** (1 / exponent)


def half_width(found: Parts, alpha: float) -> np.ndarray:
    """Half the length of the interval of level 1 - alpha."""
    variance = found.v_seeds + found.v_rows
    share = found.v_seeds / np.where(variance > 0, variance, 1)
    return critical(share, found.seeds, found.rows, np.full(np.shape(share), alpha)) * np.sqrt(variance)


def p_values(found: Parts) -> np.ndarray:
    """The level at which each difference would just count; NaN where nothing varies."""
    variance = found.v_seeds + found.v_rows
    safe = np.where(variance > 0, variance, 1)
    share, distance = found.v_seeds / safe, np.abs(found.mean) / np.sqrt(safe)
    low, high = np.full(np.shape(share), np.log(1e-15)), np.zeros(np.shape(share))
    for _ in range(45):
        middle = (low + high) / 2
        counts = distance > critical(share, found.seeds, found.rows, np.exp(middle))
        low, high = np.where(counts, low, middle), np.where(counts, middle, high)
    return np.where(variance > 0, np.exp((low + high) / 2), np.nan)


def power(difference: np.ndarray, found: Parts, seeds: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Probability that a true difference counts with this many seeds on as many rows.

    Args:
        difference: the true difference, shape (k,).
        found: where v_seeds and v_rows belong to `found.seeds` seeds.
        seeds: how many there would be, at least 2.
        alpha: two-sided level, shape (k,).
    """
    v_seeds = (found.v_seeds * found.seeds / seeds)[:, None]
    v_rows = found.v_rows[:, None]
    estimated = v_seeds * stats.chi2.ppf(_MIDPOINTS, (seeds - 1)[:, None]) / (seeds - 1)[:, None]
    total = np.maximum(estimated + v_rows, 1e-300)
    share = estimated / total
    limit = critical(share, seeds[:, None], found.rows[:, None], alpha[:, None]) * np.sqrt(total)
    spread = np.sqrt(np.maximum(v_seeds + v_rows, 1e-300))
    shift = np.abs(difference)[:, None]
    return (stats.norm.sf((limit - shift) / spread) + stats.norm.cdf((-limit - shift) / spread)).mean(1)


def seeds_wanted(difference: np.ndarray, found: Parts, alpha: np.ndarray, wanted: float = 0.8) -> np.ndarray:
    """Fewest seeds, all in all, with which a difference of this size would count with probability `wanted`.

    Args:
        difference, found, alpha: as for `power`.

    Returns:
        Numbers from 2 up, shape (k,); NaN where `MOST_SEEDS` are not enough.
    """
    low, high = np.ones(len(alpha), dtype=int), np.full(len(alpha), MOST_SEEDS)
    enough = power(difference, found, high, alpha) >= wanted
    while (high - low > 1).any():
        middle = np.maximum((low + high) // 2, 2)
        good = power(difference, found, middle, alpha) >= wanted
        low, high = np.where(good, low, middle), np.where(good, middle, high)
    return np.where(enough, high, np.nan)


def rows_wanted(difference: np.ndarray, found: Parts, alpha: np.ndarray, wanted: float = 0.8) -> np.ndarray:
    """Fewest test rows with which a difference of this size would count if seeds were free; shape (k,), infinite for none."""
    reach = stats.norm.isf(alpha / 2) + stats.norm.ppf(wanted)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, np.inf, np.ceil(found.rows * found.v_rows * reach**2 / np.square(difference)))


def seeds_needed(
    difference: float, v_seeds: float, v_rows: float, n: int, rows: int = 1000, alpha: float = 0.05, wanted: float = 0.8
) -> int | None:
    """`seeds_wanted` of one difference, whose variance parts were found with `n` seeds; None where 200 are not enough."""
    one = Parts(*(np.array([value]) for value in (difference, v_seeds, v_rows, n, rows)))
    found = seeds_wanted(one.mean, one, np.array([alpha]), wanted)[0]
    return None if np.isnan(found) else int(found)
