"""Uni-LoRA against its equation: the map is recovered from the weights themselves."""

import numpy as np
import torch

from tests.oracles import bridged


def test_equation_in_float64() -> None:
    """Every entry of every factor is an entry of theta over the root of its count; the map is balanced and seeded."""
    model, adapter = bridged.attached("unilora")
    rank, length = 4, 64
    theta = adapter.tensors()["shared.unilora_theta_d"].double()
    sizes = [(rank * s.d_in, s.d_out * rank) for s in adapter.sites]
    total = sum(a + b for a, b in sizes)
    rng = np.random.default_rng(42)
    index = np.repeat(np.arange(length), total // length)
    index = np.concatenate([index, rng.choice(length, size=total % length, replace=False)]) if total % length else index
    rng.shuffle(index)
    counts = np.bincount(index, minlength=length)
    assert counts.max() - counts.min() <= 1
    values, at = theta[index] / torch.tensor(counts[index]).sqrt(), 0
    for site, (a, b) in zip(adapter.sites, sizes, strict=True):
        A, B = values[at : at + a].view(rank, site.d_in), values[at + a : at + a + b].view(site.d_out, rank)
        at += a + b
        weight, bias = bridged.weights(model, site)
        wanted = weight + B @ A
        torch.testing.assert_close(bridged.effective(model, adapter, site), wanted, atol=1e-6, rtol=1e-5)
        x = torch.randn(3, site.d_in)
        y = model.get_submodule(site.path)(x).double()
        torch.testing.assert_close(y, x.double() @ wanted.T + bias, atol=1e-5, rtol=1e-4)
    assert at == total


def test_size_does_not_depend_on_the_sites() -> None:
    """One vector, wherever it goes."""
    for roles in (("attn.q",), ("attn.q", "ffn.up")):
        assert bridged.attached("unilora", roles=roles)[1].new_params() == 64
