"""LoHa against its equation, and the rank it can reach."""

import torch

from tests.oracles import bridged


def naive(t, weight, bias, site):
    first, second = t["hada_w1_a"] @ t["hada_w1_b"], t["hada_w2_a"] @ t["hada_w2_b"]
    change = torch.zeros_like(weight)
    for i in range(site.d_out):
        for j in range(site.d_in):
            change[i, j] = first[i, j] * second[i, j]
    return weight + change, bias  # alpha / r = 1 in the tiny configuration


def test_equation_in_float64() -> None:
    """The change is the entrywise product of two low-rank matrices; the scale is alpha / r."""
    # alpha 40 over rank 4: ten times the product
    bridged.check("loha", lambda t, w, b, s: (w + 10 * (naive(t, w, b, s)[0] - w), b), alpha=40.0)


def test_rank_is_r_squared() -> None:
    """Two factors of rank 4 give a change of rank 16."""
    model, adapter = bridged.attached("loha")
    site = adapter.sites[0]
    change = bridged.effective(model, adapter, site) - bridged.weights(model, site)[0]
    assert torch.linalg.matrix_rank(change, rtol=1e-6) == 16
