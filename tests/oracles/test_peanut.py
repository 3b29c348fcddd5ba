"""PEANuT against its equation, without and with inner layers."""

import pytest
import torch

from tests.oracles import bridged


def naive(t, weight, bias, site):
    change = torch.zeros_like(weight)
    pairs = sum(k.startswith("peanut_encoders") for k in t)
    for column in range(site.d_in):
        z = torch.relu(t["peanut_A.weight"] @ weight[:, column])
        skips = []
        for i in range(pairs):
            skips.append(z)
            z = torch.relu(t[f"peanut_encoders.{i}.weight"] @ z)
        for i in range(pairs):
            z = torch.relu(t[f"peanut_decoders.{i}.weight"] @ z) + skips[pairs - 1 - i]
        change[:, column] = t["peanut_B.weight"] @ z
    return weight + 3.0 * change, bias


@pytest.mark.parametrize("depth", [0, 2])
def test_equation_in_float64(depth: int) -> None:
    """The network runs over every column of W alone."""
    _, adapter = bridged.check("peanut", naive, depth=depth, scale=3.0)
    assert adapter.new_params() == sum(2 * 8 * s.d_out + 2 * depth * 64 for s in adapter.sites)


def test_change_follows_the_weight_it_is_given() -> None:
    """Asked again with another weight, the part gives that weight's change, not a remembered one."""
    model, adapter = bridged.attached("peanut")
    part = dict(adapter.named_parts())[adapter.sites[0].key]
    weight = bridged.weights(model, adapter.sites[0])[0].float()
    first, second, again = part.delta(weight, {}), part.delta(2 * weight, {}), part.delta(weight, {})
    torch.testing.assert_close(second, 2 * first, atol=1e-6, rtol=1e-4)  # relu is positively homogeneous
    assert torch.equal(first, again)
