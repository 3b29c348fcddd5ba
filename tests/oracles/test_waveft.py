"""WaveFT against one level of the inverse Haar transform written out."""

import torch

from tests.oracles import bridged


def naive(t, weight, bias, site):
    places = torch.randperm(site.d_out * site.d_in, generator=torch.Generator().manual_seed(777))[:100]
    change = torch.zeros_like(weight)
    half_rows, half_columns = site.d_out // 2, site.d_in // 2
    for c, place in zip(t["waveft_spectrum"], places.tolist(), strict=True):
        u, v = divmod(place, site.d_in)
        down, right = u >= half_rows, v >= half_columns  # the band
        i, j = u % half_rows, v % half_columns
        patch = torch.tensor([[1.0, -1.0 if down else 1.0], [-1.0 if right else 1.0, 1.0]], dtype=torch.float64)
        patch[1, 1] = patch[0, 1] * patch[1, 0]
        change[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] += c * patch / 2
    return weight + 25.0 * change, bias


def test_touches_one_patch_per_coefficient() -> None:
    """A coefficient changes one 2 x 2 patch, all four entries by the same size: scale / 2 times it."""
    model, adapter = bridged.attached("waveft", coefficients=1)
    site = adapter.sites[0]
    change = bridged.effective(model, adapter, site) - bridged.weights(model, site)[0]
    spectrum = bridged.own(adapter, site)["waveft_spectrum"]
    at = (change.abs() > 1e-5).nonzero()
    assert len(at) == 4
    assert (at.max(0).values - at.min(0).values).tolist() == [1, 1]
    torch.testing.assert_close(change[tuple(at.T)].abs(), (25.0 / 2 * spectrum.abs()).expand(4), atol=1e-5, rtol=1e-4)


def test_equation_in_float64() -> None:
    """Averages and differences along rows and columns, patch by patch."""
    bridged.check("waveft", naive)
