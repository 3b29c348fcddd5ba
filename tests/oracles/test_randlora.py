"""RandLoRA against its equation for wide, tall and square weights, and its rank."""

import torch

from tests.oracles import bridged


def naive(t, weight, bias, site):
    scale, g = t["randlora_lambda"], t["randlora_gamma"]  # (r, n), (n, min d)
    A, B = t["shared.randlora_A"][:, 0, : min(site.shape)], t["shared.randlora_B"][: max(site.shape)]  # (r, min d), (max d, n, r)
    change = torch.zeros(max(site.shape), min(site.shape), dtype=torch.float64)
    r, n = scale.shape
    for p in range(r * n):
        k, i = divmod(p, n)
        change += torch.outer(B[:, p // r, p % r], scale[k, i] * A[k] * g[i])
    return weight + 16.0 / 8 * (change if site.d_out >= site.d_in else change.T), bias


def test_equation_in_float64() -> None:
    """A sum of random terms with trained diagonals; the transpose of it where the input is the wider side."""
    model, adapter = bridged.check("randlora", naive, roles=("attn.q", "ffn.up", "ffn.down"))
    assert {s.shape for s in adapter.sites} == {(32, 32), (64, 32), (32, 64)}
    for site in adapter.sites:
        weight, bias = bridged.weights(model, site)
        change = naive(bridged.own(adapter, site), weight, bias, site)[0] - weight
        assert torch.linalg.matrix_rank(change, rtol=1e-10) == 32
