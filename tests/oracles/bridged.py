"""What the oracles of bridged methods share: a module's real output against an equation in float64 from the stored tensors."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.contract import hosts
from tests.contract.checks import disturb
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.kernel.adapter import Adapter

Naive = Callable[[dict[str, Tensor], Tensor, Tensor, Site], tuple[Tensor, Tensor]]
"""(tensors of the site and of `shared.`, W, bias, site) -> (W', bias'), all float64."""


def attached(key: str, seed: int = 0, **config: object) -> tuple[nn.Module, Adapter]:
    """A fresh tiny BERT with the method on it, every trainable tensor moved; the tiny configuration unless told otherwise."""
    cls = registry.methods()[key]
    model = hosts.host("bert")
    cfg = cls.Config.model_validate({**cls.tiny.model_dump(exclude_unset=True), **config})
    adapter = hosts.adapters(model).attach("adapter", key, cfg, seed)
    disturb(adapter)
    return model, adapter


def own(adapter: Adapter, site: Site) -> dict[str, Tensor]:
    """The site's stored tensors by their short name, and the shared ones, in float64 where they are numbers."""
    found = {k.removeprefix(f"{site.key}."): t for k, t in adapter.tensors().items() if k.startswith((f"{site.key}.", "shared."))}
    return {k: t.double() if t.is_floating_point() else t for k, t in found.items()}


def weights(model: nn.Module, site: Site) -> tuple[Tensor, Tensor]:
    """The site's base weight and bias in float64."""
    module = model.get_submodule(site.path)
    return module.weight.detach().double(), module.bias.detach().double()


def effective(model: nn.Module, adapter: Adapter, site: Site) -> Tensor:
    """The weight (d_out, d_in) that the merge would write, in float64."""
    part = dict(adapter.named_parts())[site.key]
    weight = model.get_submodule(site.path).weight.detach()
    return weight.double() + part.delta(weight, {}).double()


def check(key: str, naive: Naive, within: float = 2e-5, **config: object) -> tuple[nn.Module, Adapter]:
    """At every site of a disturbed adapter, output and merged weight follow the naive equation; returns host and adapter."""
    model, adapter = attached(key, **config)
    gen = torch.Generator().manual_seed(9)
    assert adapter.sites
    for site in adapter.sites:
        weight, bias = weights(model, site)
        wanted, shifted = naive(own(adapter, site), weight, bias, site)
        x = torch.randn(2, 3, site.d_in, generator=gen)
        with torch.no_grad():
            y = model.get_submodule(site.path)(x)
        want = x.double() @ wanted.T + shifted
        assert not torch.allclose(want, x.double() @ weight.T + bias, atol=1e-3), "the adapter does nothing; the check is empty"
        torch.testing.assert_close(y.double(), want, atol=within * float(want.abs().max()), rtol=within)
        torch.testing.assert_close(effective(model, adapter, site), wanted, atol=within * float(wanted.abs().max()), rtol=within)
    return model, adapter
