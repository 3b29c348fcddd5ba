"""Weighted one-dimensional k-means against the exact optimum, found by dynamic programming."""

import itertools

import pytest
import torch

from workbench.kernel.kmeans import kmeans


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(x: torch.Tensor, weight: torch.Tensor, size: int) -> torch.Tensor:
    """The weighted squared error of every row (...,)."""
    centres, codes = kmeans(x, weight, size)
    return ((centres.gather(-1, codes) - x).square() * weight).sum(-1)


def least(x: list[float], weight: list[float], size: int) -> float:
    """The smallest error of one row: the best last range, and the best of the rest with one centre fewer."""
    pairs = sorted(zip(x, weight, strict=True))

    def spread(i: int, j: int) -> float:
        total = sum(w for _, w in pairs[i:j])
        mean = sum(w * v for v, w in pairs[i:j]) / total
        return sum(w * (v - mean) ** 2 for v, w in pairs[i:j])

    one = {(i, j): spread(i, j) for i, j in itertools.combinations(range(len(pairs) + 1), 2)}
    best = [0.0, *(one[0, j] for j in range(1, len(pairs) + 1))]
    for _ in range(size - 1):
        best = [0.0, *(min(best[i] + one[i, j] for i in range(j)) for j in range(1, len(pairs) + 1))]
    return best[-1]


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_near_the_exact_optimum(size: int) -> None:
    """On average within a sixth of it, also under uneven weights and for values with a long tail; never below it."""
    weight = drawn(30, seed=1).exp()
    for x in (drawn(20, 30), drawn(20, 30, seed=2) ** 3):
        found = error(x, weight, size)
        wanted = torch.tensor([least(row.tolist(), weight.tolist(), size) for row in x])
        assert (found >= wanted * (1 - 1e-4)).all()
        assert found.mean() <= (1 + 1e-5 if size == 1 else 7 / 6) * wanted.mean()


def test_exact_where_the_centres_suffice() -> None:
    """Rows with at most `size` different values come out bit for bit, repeated values included."""
    few = torch.randint(0, 8, (50, 40), generator=torch.Generator().manual_seed(3)) * 0.377 - 1.3
    for x in (few, drawn(50, 8), drawn(50, 3), torch.zeros(2, 5)):
        centres, codes = kmeans(x, torch.full((x.shape[-1],), 0.3), 8)
        assert torch.equal(centres.gather(-1, codes), x)


def test_every_value_goes_to_its_nearest_centre_and_more_centres_help() -> None:
    x, weight = drawn(40, 3, 60), drawn(3, 60, seed=4).abs() + 0.1
    centres, codes = kmeans(x, weight, 8)
    assert torch.equal(centres, centres.sort(-1).values)
    away = (x[..., None] - centres[..., None, :]).abs()
    torch.testing.assert_close((x - centres.gather(-1, codes)).abs(), away.min(-1).values)
    sums = [error(x, weight, size).sum() for size in (1, 2, 3, 4, 8, 16, 32)]
    assert all(b < 0.75 * a for a, b in itertools.pairwise(sums))


def test_rows_do_not_disturb_each_other_and_weights_matter() -> None:
    """A row alone gives the same centres; a heavy value gets a centre of its own."""
    x = drawn(10, 30)
    centres, _ = kmeans(x, torch.ones(30), 4)
    assert torch.equal(kmeans(x[3], torch.ones(30), 4)[0], centres[3])
    heavy = torch.ones(30)
    heavy[7] = 1e6
    centres, codes = kmeans(x, heavy, 4)
    torch.testing.assert_close(centres.gather(-1, codes)[:, 7], x[:, 7], atol=1e-4, rtol=0)
