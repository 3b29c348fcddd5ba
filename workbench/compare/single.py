"""Two trained adapters with one seed each, on the same test rows: what can be said about these two, not about their methods."""

import numpy as np
from scipy import stats

DRAWS = 9_999
_BLOCK = 1_000


def mcnemar(wins: int, losses: int) -> float:
    """McNemar's test of two sets of right and wrong answers: exact, with the mid-p value.

    The plain exact test calls equal adapters different in 2-4 % where 5 % are promised; mid-p (Fagerland et al. 2013) in 4-5 %.

    Args:
        wins, losses: rows that only the one, only the other got right.
    """
    if wins == losses:
        return 1.0
    told = wins + losses
    return float(stats.binomtest(wins, told).pvalue - stats.binom.pmf(wins, told, 0.5))


def permutation(differences: np.ndarray, seed: int = 0) -> np.ndarray:
    """Paired permutation test: on each row the two labels may be exchanged.

    Args:
        differences: (comparisons, rows) of row contributions.
        seed: of the 9,999 draws, shared by all comparisons.

    Returns:
        p values, shape (comparisons,).
    """
    rng, seen = np.random.default_rng(seed), np.zeros(len(differences))
    observed = np.abs(differences.sum(1)) * (1 - 1e-9)  # equal sums must count as equal whatever the order of adding
    for start in range(0, DRAWS, _BLOCK):
        signs = rng.integers(0, 2, (min(_BLOCK, DRAWS - start), differences.shape[1]), dtype=np.int8) * 2.0 - 1.0
        seen += (np.abs(signs @ differences.T) >= observed).sum(0)
    return (1 + seen) / (1 + DRAWS)


def bootstrap(differences: np.ndarray, level: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Percentile intervals of means over resampled rows.

    Args:
        differences: (comparisons, rows).
        level: coverage.
        seed: of the 2,000 resamples, shared by all comparisons.

    Returns:
        (low, high), each of shape (comparisons,).
    """
    rows = differences.shape[1]
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(rows, np.full(rows, 1 / rows), size=2_000) / rows
    means, centre = weights @ differences.T, differences.mean(1)
    spread = (means - centre) * np.sqrt(rows / max(rows - 1, 1))  # a resample varies by (rows - 1) / rows of what it should
    low, high = np.quantile(centre + spread, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
