"""HiRA against its equation, and what follows from it."""

import torch

from tests.oracles import bridged


def naive(t, weight, bias, site):
    return weight * (1 + t["hira_B"] @ t["hira_A"]), bias


def test_equation_in_float64() -> None:
    """A low-rank matrix multiplies W entry by entry."""
    model, adapter = bridged.check("hira", naive)
    site = adapter.sites[0]
    change = bridged.effective(model, adapter, site) - bridged.weights(model, site)[0]
    assert torch.linalg.matrix_rank(change, rtol=1e-6) > 4  # more than LoRA of the same rank could


def test_zero_entries_stay_zero() -> None:
    """Where the base is zero the adapted weight is zero."""
    model, adapter = bridged.attached("hira")
    part = dict(adapter.named_parts())[adapter.sites[0].key]
    weight = bridged.weights(model, adapter.sites[0])[0].float()
    weight[3] = 0
    delta = part.delta(weight, {})
    assert not delta[3].any()
    assert delta[4].any()
