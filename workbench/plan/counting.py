"""Which sites a method takes and how many scalars it trains there; exact, on a host of the meta device."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch
from torch import nn

from workbench import backbones
from workbench.core.types import Placement, Site
from workbench.kernel import registry
from workbench.kernel.adapter import Adapter
from workbench.kernel.contract import Method, SelectPart, TokenPart
from workbench.kernel.host import Adapters
from workbench.plan.values import Entry


def matched(adapters: Adapters, entry: Entry) -> list[Site]:
    """The sites the entry's method takes on this host.

    Raises:
        WorkbenchError: a role matches nothing, or a depth lies outside the stack.
    """
    method = registry.methods()[entry.key]
    return backbones.chosen(adapters.sites, entry.cfg, registry.default_roles(method, entry.cfg), adapters.n_blocks, entry.key)


def trained_base(adapters: Adapters, method: type[Method], cfg: Placement, sites: list[Site]) -> dict[str, nn.Parameter]:
    """Base tensors that the method trains, by path; a tied tensor once, under its first name."""
    picked: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    also, mine = method.also_trains(cfg), {id(s) for s in sites}
    for site in adapters.sites:
        names = list(method.selects(cfg, site)) if issubclass(method, SelectPart) and id(site) in mine else []
        names = [n for n, _ in site.tensors] if site.role in also else names
        module = adapters.host.get_submodule(site.path)
        for name in names:
            param = module._parameters[name]
            if param is not None and id(param) not in seen:
                seen.add(id(param))
                picked[f"{site.path}.{name}".lstrip(".")] = param
    return picked


def on_meta(adapters: Adapters, entry: Entry) -> Adapter:
    """Build the entry's parts without allocating anything; the caller detaches it."""
    with torch.device("meta"):
        return adapters.attach("planned", entry.key, entry.cfg)


def dense_shapes(adapters: Adapters, entry: Entry) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the adapter's own tensors that train, before any modifier."""
    adapter = on_meta(adapters, entry)
    try:
        return {name: tuple(p.shape) for name, p in adapter.named_trainable().items() if not name.startswith("chosen.")}
    finally:
        adapters.detach("planned")


def virtual(adapters: Adapters, entry: Entry) -> tuple[int, int]:
    """(tokens that the entry's parts put before every example, keys and values per position that they have copied)."""
    adapter = on_meta(adapters, entry)
    nothing: MappingProxyType[str, object] = MappingProxyType({})
    try:
        parts = [p for _, p in adapter.named_parts() if isinstance(p, TokenPart)]
        tokens = sum(len(p.tokens(nothing)) for p in parts if p.where == "input")
        deep = [t for p in parts if p.where == "layers" for t in p.keys_values(nothing)]
        return tokens, sum(t.numel() // t.shape[1] for t in deep)
    finally:
        adapters.detach("planned")


def size(params: Iterable[nn.Parameter]) -> int:
    """Scalars in all."""
    return sum(p.numel() for p in params)


def head_size(host: nn.Module, head: tuple[str, ...]) -> int:
    """Scalars of the head's modules."""
    return size({id(p): p for path in head for p in host.get_submodule(path).parameters()}.values())


def base_size(host: nn.Module, head: tuple[str, ...]) -> int:
    """Scalars of the base without the head, tied ones once."""
    return size(p for n, p in host.named_parameters() if not n.startswith("workbench.")) - head_size(host, head)


def matrices(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many of the tensors have at least two dimensions."""
    return sum(len(shape) > 1 for shape in shapes.values())


def weight_bytes(host: nn.Module) -> int:
    """Bytes of the host's own weights in the dtype they are loaded in."""
    return sum(p.numel() * p.element_size() for n, p in host.named_parameters() if not n.startswith("workbench."))
