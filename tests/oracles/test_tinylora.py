"""TinyLoRA against its equation from a singular value decomposition of its own, and its tying."""

import pytest
import torch

from tests.oracles import bridged


def naive_at(number):
    def naive(t, weight, bias, site):
        U, S, V = torch.linalg.svd(weight)
        U, S, V = U[:, :4], S[:4], V[:4]
        # the sign of a singular pair is free: take the stored one
        sign = torch.sign((U * t["tinylora_B"]).sum(0))
        U, V = U * sign, V * sign[:, None]
        R = torch.einsum("i,ijk->jk", t[f"shared.tinylora_v.{number}"], t["tinylora_P"])
        return weight + U @ torch.diag(S.sqrt()) @ R @ torch.diag(S.sqrt()) @ V, bias

    return naive


def test_equation_in_float64() -> None:
    """A mix of frozen matrices between the base's own singular directions; one v for all sites."""
    bridged.check("tinylora", naive_at(0), within=1e-4, tying=1.0)


@pytest.mark.parametrize(("tying", "groups"), [(0.0, 4), (0.3, 3), (0.5, 2), (1.0, 1)])
def test_tying_makes_groups(tying: float, groups: int) -> None:
    """Four sites share their numbers in groups."""
    _, adapter = bridged.attached("tinylora", tying=tying)
    assert len([k for k in adapter.tensors() if "tinylora_v" in k]) == groups
    assert adapter.new_params() == 16 * groups == adapter.method.n_params(adapter.cfg, adapter.sites)
