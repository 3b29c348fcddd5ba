"""LoKr against its equation, with both forms of the second factor, and the split of the widths."""

import pytest
import torch

from tests.oracles import bridged
from workbench.methods.structured.lokr import split


def naive(t, weight, bias, site):
    C = t["lokr_w1"]
    D = t["lokr_w2"] if "lokr_w2" in t else t["lokr_w2_a"] @ t["lokr_w2_b"]
    scale = 20.0 / (2 if "lokr_w2_a" in t else 16)
    change = torch.zeros_like(weight)
    for i in range(site.d_out):
        for j in range(site.d_in):
            change[i, j] = C[i // D.shape[0], j // D.shape[1]] * D[i % D.shape[0], j % D.shape[1]]
    return weight + scale * change, bias


@pytest.mark.parametrize("rank", [2, 16])
def test_equation_in_float64(rank: int) -> None:
    """Entry (i, j) of a Kronecker product is the product of one entry of each factor."""
    _, adapter = bridged.check("lokr", naive, rank=rank, alpha=20.0)
    assert any("lokr_w2_a" in k for k in adapter.tensors()) == (rank == 2)


@pytest.mark.parametrize(("width", "parts"), [(32, (4, 8)), (384, (16, 24)), (7, (1, 7)), (36, (6, 6)), (1536, (32, 48))])
def test_split_is_the_most_even_one(width: int, parts: tuple[int, int]) -> None:
    """p is the largest divisor up to the square root."""
    assert split(width) == parts
