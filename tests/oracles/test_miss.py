"""MiSS against its equation, also where the slices do not fill the input."""

import pytest
import torch

from tests.oracles import bridged


def naive(t, weight, bias, site):
    D = t["miss_block"]  # (r, d_out)
    change = torch.stack([D[j % D.shape[0]] for j in range(site.d_in)], dim=1)
    return weight + change, bias


@pytest.mark.parametrize("rank", [4, 5])
def test_equation_in_float64(rank: int) -> None:
    """Column j of the change is row j mod r of D."""
    model, adapter = bridged.check("miss", naive, rank=rank)
    change = bridged.effective(model, adapter, adapter.sites[0]) - bridged.weights(model, adapter.sites[0])[0]
    assert torch.linalg.matrix_rank(change, rtol=1e-4) == rank
