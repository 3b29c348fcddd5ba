"""DeLoRA against its equation and its bound."""

import torch

from tests.oracles import bridged


def naive(t, weight, bias, site):
    A, B, r = t["delora_A"], t["delora_B"], t["delora_A"].shape[0]
    change = torch.zeros_like(weight)
    for i in range(r):
        change += t["delora_lambda"] / r * torch.outer(B[:, i] / B[:, i].norm(), A[i] / A[i].norm())
    return weight + change * weight.norm(dim=0), bias


def test_equation_in_float64() -> None:
    """Normalised rank-one terms, scaled by lambda / r and by the norms of W's columns."""
    bridged.check("delora", naive)


def test_change_is_bounded_whatever_the_factors() -> None:
    """A thousandfold B leaves the change within lambda times the largest column norm of W."""
    model, adapter = bridged.attached("delora", strength=2.0)
    with torch.no_grad():
        for name, p in adapter.named_trainable().items():
            if "delora_B" in name:
                p.mul_(1000)
    for site in adapter.sites:
        weight, _ = bridged.weights(model, site)
        strength = bridged.own(adapter, site)["delora_lambda"].item()
        change = bridged.effective(model, adapter, site) - weight
        assert torch.linalg.matrix_norm(change) <= abs(strength) * weight.norm(dim=0).max() * 1.0001
