"""FourierFT against the inverse discrete Fourier transform written out."""

import math

import torch

from tests.oracles import bridged


def naive(t, weight, bias, site):
    places = torch.randperm(site.d_out * site.d_in, generator=torch.Generator().manual_seed(777))[:20]
    rows, columns = torch.meshgrid(
        torch.arange(site.d_out, dtype=torch.float64), torch.arange(site.d_in, dtype=torch.float64), indexing="ij"
    )
    change = torch.zeros_like(weight)
    for c, place in zip(t["fourierft_spectrum"], places.tolist(), strict=True):
        u, v = divmod(place, site.d_in)
        change += c * torch.cos(2 * math.pi * (u * rows / site.d_out + v * columns / site.d_in))
    return weight + 150.0 * change / (site.d_out * site.d_in), bias


def test_equation_in_float64() -> None:
    """Each coefficient is a plane wave over the whole matrix; the real part is a cosine."""
    bridged.check("fourierft", naive)


def test_places_follow_the_seed() -> None:
    """Another seed of the places gives another change from the same coefficients."""
    changes = []
    for seed in (777, 778):
        model, adapter = bridged.attached("fourierft", places_seed=seed)
        changes.append(bridged.effective(model, adapter, adapter.sites[0]))
    assert not torch.allclose(*changes)
