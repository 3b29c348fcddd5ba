"""One adapter: what a method put on a host, what of it is stored, and what of it trains."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from workbench.core.errors import WorkbenchError
from workbench.core.types import Placement, Site
from workbench.kernel import attach as surgery
from workbench.kernel.contract import Method, Part


class Adapter(nn.Module):
    """What one method put on a host: parts at sites, a shared module, and chosen base tensors.

    Attributes:
        method, cfg: the method class and its Config.
        sites: the sites the method matched, in model order.
        chosen: base tensor path -> our own trainable Parameter that stands in for it while active.
    """

    def __init__(self, name: str, key: str, method: type[Method], cfg: Placement, sites: list[Site]) -> None:
        super().__init__()
        self.name, self.key, self.method, self.cfg, self.sites = name, key, method, cfg, sites
        self.parts = nn.ModuleDict()
        self.shared: nn.Module | None = None
        self.chosen = nn.ParameterDict()
        self._places: dict[str, tuple[nn.Parameter, list[tuple[nn.Module, str]]]] = {}

    def named_parts(self) -> Iterator[tuple[str, Part]]:
        """(unique key, part) in attach order."""
        for safe, part in self.parts.items():
            yield safe.replace("/", "."), part  # type: ignore[misc]

    def add_part(self, key: str, part: Part) -> None:
        """Register a part under its site's key."""
        self.parts[key.replace(".", "/")] = part

    def choose(self, host: nn.Module, path: str) -> None:
        """Take one base tensor over: our copy trains, the original object is kept untouched."""
        owner, _, leaf = path.rpartition(".")
        original = host.get_submodule(owner)._parameters[leaf]
        if original is None or any(original is p for p, _ in self._places.values()):
            return  # a tied tensor is taken once, under its first name
        safe = path.replace(".", "/")
        self._places[safe] = (original, surgery.holders(host, original))
        self.chosen[safe] = nn.Parameter(original.detach().clone())

    def originals(self) -> dict[str, tuple[nn.Parameter, nn.Parameter, list[tuple[nn.Module, str]]]]:
        """Base tensor path -> (base Parameter, our Parameter, the modules that hold it)."""
        return {s.replace("/", "."): (o, self.chosen[s], where) for s, (o, where) in self._places.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Everything that must be stored, with modifiers applied: `<site>.<tensor>`, `shared.<..>`, `base.<path>`."""
        found = {key: value.detach() for key, _, _, value in self._stored()}
        return found | {f"base.{n}": own.detach() for n, (_, own, _) in self.originals().items()}

    def _groups(self) -> list[tuple[str, nn.Module]]:
        return [*self.named_parts(), *([("shared", self.shared)] if self.shared is not None else [])]

    def _stored(self) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
        """(stored key, module, the tensor's name in it, value) of every tensor of the parts and of `shared`."""
        for prefix, module in self._groups():
            for name, value in [*effective(module)]:
                yield f"{prefix}.{name}", module, name, value

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy stored tensors in; keys and shapes must match exactly.

        Raises:
            WorkbenchError: names the first missing, unexpected or misshapen tensor.
        """
        mine = self.tensors()
        for word, names in (("lacks", mine.keys() - tensors.keys()), ("has an unexpected", tensors.keys() - mine.keys())):
            if names:
                raise WorkbenchError(
                    f"the adapter {word} tensor {min(names)!r} ({len(names)} in all); it was made for another setup."
                )
        for key, tensor in mine.items():
            if tensor.shape != tensors[key].shape:
                raise WorkbenchError(f"tensor {key!r} must have shape {tuple(tensor.shape)}; got {tuple(tensors[key].shape)}.")
        with torch.no_grad():
            for key, module, name, value in self._stored():
                assign(module, name, tensors[key].to(value))
            for name, (_, own, _) in self.originals().items():
                own.copy_(tensors[f"base.{name}"])

    def named_trainable(self) -> dict[str, nn.Parameter]:
        """Tensors an optimizer should move, by name."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """Optimizer groups of everything that trains, each tensor exactly once, at the rates its part asks for."""
        groups = [g for _, part in self.named_parts() for g in bare(part).param_groups(lr)]
        grouped = {id(p) for g in groups for p in g["params"]}
        rest = [p for p in self.named_trainable().values() if id(p) not in grouped]
        return [g for g in [*groups, {"params": rest, "lr": lr}] if g["params"]]

    def new_params(self) -> int:
        """Trained scalars that the base does not have, as far as they are in use."""
        mine = sum(p.numel() for n, p in self.named_trainable().items() if not n.startswith("chosen."))
        told = [(part, n) for _, part in self.named_parts() if (n := part.in_use()) is not None]
        return mine + sum(n - sum(p.numel() for p in part.parameters() if p.requires_grad) for part, n in told)

    def base_params(self) -> int:
        """Trainable scalars that are base tensors."""
        return sum(p.numel() for p in self.chosen.values())

    def differing(self) -> int:
        """Scalars that differ from the base now: the new ones, and the changed ones among the base tensors."""
        return self.new_params() + sum(int((own != base).sum()) for base, own, _ in self.originals().values())

    def on_step(self, step: int, steps: int) -> list[nn.Parameter]:
        """Call after optimizer step `step` (from 1) of `steps`, before the gradients are cleared.

        Returns:
            tensors whose optimizer state must be forgotten.
        """
        return [p for _, part in self.named_parts() for p in part.on_step(step, steps)]

    def penalty(self) -> Tensor | None:
        """The sum of the parts' penalties, a scalar; None where no part has one."""
        terms = [p for _, part in self.named_parts() if (p := part.penalty()) is not None]
        return torch.stack([t.float() for t in terms]).sum() if terms else None

    def progress(self) -> dict[str, Tensor]:
        """What a checkpoint needs besides parameters and buffers so that training goes on bitwise: `<site>:<name>` -> tensor."""
        return {f"{key}:{name}": t for key, part in self.named_parts() for name, t in part.progress().items()}

    def resume(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Take up training after optimizer step `step` with what `progress` gave."""
        for key, part in self.named_parts():
            start = f"{key}:"
            part.resume(step, {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)})

    def _apply(self, fn: Any, recurse: bool = True) -> "Adapter":
        """Follow the host to its device, but stay in fp32 when the host is cast down."""

        def moved(t: Tensor) -> Tensor:
            new = fn(t)  # casting `new` back would have rounded it
            return t.to(new.device) if new.is_floating_point() and new.dtype != t.dtype else new

        for module in (self.parts, self.shared):
            if module is not None:
                module._apply(moved)
        self.chosen._apply(fn)
        return self


def bare(module: Any) -> Any:
    """A view of the module as its class wrote it, with plain parameters where modifiers re-parametrised them."""
    plain = getattr(module, "parametrizations", {})
    view = object.__new__(type(module).__bases__[0] if plain else type(module))
    view.__dict__ = {
        **module.__dict__,
        "_parameters": {**module._parameters, **{n: chain.original for n, chain in plain.items()}},
        "_modules": {n: m and bare(m) for n, m in module._modules.items() if n != "parametrizations"},
    }
    return view


def assign(module: nn.Module, name: str, value: Tensor) -> None:
    """Write a tensor that `effective` names: bitwise, or to rounding where a parametrization has to be inverted."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if parametrize.is_parametrized(owner, leaf):
        setattr(owner, leaf, value)
    else:
        getattr(owner, leaf).copy_(value)


def effective(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, value) of a module's parameters and persistent buffers, parametrizations evaluated under their plain name."""
    for prefix, child in module.named_modules():
        if "parametrizations" in prefix.split("."):
            continue
        plain = getattr(child, "parametrizations", {})
        dot = f"{prefix}." if prefix else ""
        for name in plain:
            yield dot + name, getattr(child, name)
        for name, value in child._parameters.items():
            if value is not None:
                yield dot + name, value
        for name, value in child._buffers.items():
            if value is not None and name not in child._non_persistent_buffers_set:
                yield dot + name, value
