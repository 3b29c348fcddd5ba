"""SHiRA: the support, drawn from its seed, and the values on it."""

import torch

from tests.oracles import bridged


def naive(t, weight, bias, site):
    count = 2 * (site.d_in + site.d_out)
    drawn = torch.randperm(site.d_in * site.d_out, generator=torch.Generator().manual_seed(0))[:count]
    flat = weight.flatten().clone()
    flat[drawn.sort().values] += t["shira_weight"]
    return flat.view_as(weight), bias


def test_equation_in_float64() -> None:
    """The values stand at the drawn places in row order."""
    model, adapter = bridged.check("shira", naive)
    for site in adapter.sites:
        change = bridged.effective(model, adapter, site) - bridged.weights(model, site)[0]
        assert 0 < (change.abs() > 1e-7).sum() <= 2 * (site.d_in + site.d_out)


def test_counts_like_lora() -> None:
    """As many numbers as LoRA of the same rank."""
    from workbench.methods.low_rank.lora import LoRA, LoRAConfig

    _, adapter = bridged.attached("shira")
    assert adapter.new_params() == LoRA.n_params(LoRAConfig(rank=2), adapter.sites)
