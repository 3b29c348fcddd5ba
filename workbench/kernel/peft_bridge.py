"""The only code that calls peft's injection: peft's layers are built beside the host, never into it.

A mirror of the host is made that holds the chosen modules only, each a shallow copy that shares the parameter table of the
original. peft replaces the copies in the mirror by its own layers; a `BridgedPart` per site then answers for the module through
the kernel's patches, like every native part. So the host's module tree and parameter names never change, an adapter leaves in
any order, several adapters may share a site (their differences to the base are summed, with any weight, also per example),
and tuners with state shared between layers work, because the tuner object is kept.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.core.types import Placement, Site
from workbench.kernel import attach as surgery
from workbench.kernel.adapter import Adapter
from workbench.kernel.bridged import Bridged
from workbench.kernel.contract import Context, Part, WeightPart

NAME = "default"
"""peft's name for the one adapter in each mirror; it never shows outside this file."""


class BridgedPart(WeightPart):
    """One layer of peft at one site; its tensors are this module's tensors, its base is the host's own module."""

    whole = True

    def __init__(self, cfg: Placement, site: Site, layer: nn.Module, shared: set[int], trains: int | None = None) -> None:
        """layer: peft's layer; shared: ids of modules that belong to the whole adapter and are registered there.

        trains: scalars that train, where fewer do than the tensors hold.
        """
        Part.__init__(self, cfg, site, None)
        self.trains = trains
        object.__setattr__(self, "layer", layer)
        for table in ("_parameters", "_buffers", "_non_persistent_buffers_set"):
            object.__setattr__(self, table, getattr(layer, table))  # the same objects, so that moves reach both
        for name, child in layer._modules.items():
            if child is not None and name != "base_layer" and id(child) not in shared:
                self._modules[name] = child

    def train(self, mode: bool = True) -> "BridgedPart":
        """Set the layer's own mode too: it is not a child, because it holds the base."""
        self.layer.training = mode
        return super().train(mode)

    def in_use(self) -> int | None:
        """As the method says."""
        return self.trains

    def instead(self, below: Callable[..., Any] | None, weight: float, rows: Tensor | None, x: Tensor, *args: Any) -> Tensor:
        """peft's own output; beside other adapters, or at another weight, its difference to the base is added."""
        if below is None and weight == 1 and rows is None:
            return self.layer(x, *args)
        some = x if rows is None else x[rows]
        y = self.layer.base_layer(x, *args) if below is None else below(x, *args)
        moved = (weight * (self.layer(some, *args) - self.layer.base_layer(some, *args))).to(y.dtype)
        return y + moved if rows is None else y.index_add(0, rows, moved)

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        """What peft's own merge changes in a copy of the weight; without gradients."""
        return surgery.matrix(self._merged(weight), self.site) - weight

    def delta_bias(self, bias: Tensor, weight: Tensor | None, ctx: Context) -> Tensor | None:
        """What peft's own merge changes in a copy of the bias."""
        base = self.layer.base_layer
        moved = self._merged(surgery.matrix(base, self.site)).bias.detach().float() - bias
        return moved if moved.any() else None

    @torch.no_grad()
    def _merged(self, weight: Tensor) -> nn.Module:
        """A private fp32 copy of the base module into which peft has merged the layer."""
        base = self.layer.base_layer
        scratch = _private(base)
        scratch._parameters["weight"] = nn.Parameter(surgery.stored_form(weight, base, self.site).clone())
        self.layer.base_layer = scratch
        try:
            self.layer.merge(adapter_names=[NAME])
            merged = _private(scratch)
            self.layer.unmerge()  # only so that the layer forgets what it remembers of a merge
        finally:
            self.layer.base_layer = base
        return merged

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        """The weight's change applied to x; the kernel itself asks `instead`."""
        return nn.functional.linear(x, self.delta(weight, ctx))


def _private(module: nn.Module) -> nn.Module:
    """A shallow copy with fp32 parameters of its own."""
    twin = copy.copy(module)
    twin._parameters = {n: None if p is None else nn.Parameter(p.detach().float().clone()) for n, p in module._parameters.items()}
    return twin


class BridgedAdapter(Adapter):
    """An adapter of peft; `tuner` is peft's model object around the mirror."""

    def __init__(self, name: str, key: str, method: type[Bridged], cfg: Placement, sites: list[Site], tuner: Any) -> None:
        super().__init__(name, key, method, cfg, sites)
        object.__setattr__(self, "tuner", tuner)
        self.shared = nn.Module()
        for table in ("_parameters", "_buffers", "_non_persistent_buffers_set"):
            object.__setattr__(self.shared, table, getattr(tuner, table))
        for child_name, child in tuner.named_children():
            if child_name != "model":
                self.shared._modules[child_name] = child
        shared = {id(m) for m in self.shared.modules()}
        for site in sites:
            layer = tuner.model.get_submodule(site.path)
            self.add_part(site.key, BridgedPart(cfg, site, layer, shared, method.in_use(cfg, site)))

    def _stored(self) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
        """As for a native adapter, without peft's adapter name in the keys."""
        for key, module, name, value in super()._stored():
            yield ".".join(p for p in key.split(".") if p != NAME), module, name, value

    def on_step(self, step: int, steps: int) -> list[nn.Parameter]:
        """What peft's tuner must be told after each optimizer step, before the gradients are cleared."""
        self.method.on_step(self.tuner, self.cfg, step, steps)  # type: ignore[attr-defined]
        return []

    def penalty(self) -> Tensor | None:
        """peft's own addition to the loss, if the method has one."""
        return self.method.penalty(self.tuner, self.cfg)  # type: ignore[attr-defined]

    def progress(self) -> dict[str, Tensor]:
        """The running scores of peft's tuner, if the method keeps any."""
        return self.method.progress(self.tuner)  # type: ignore[attr-defined]

    def resume(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Put the running scores back."""
        self.method.resume(self.tuner, dict(tensors))  # type: ignore[attr-defined]

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """One group per learning rate that the method asks for; tensors that layers share come once."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, param in self.named_trainable().items():
            groups.setdefault(self.method.rate(self.cfg, name), []).append(param)  # type: ignore[attr-defined]
        return [{"params": params, "lr": lr * rate} for rate, params in groups.items()]


def inject(
    adapters: Any, name: str, key: str, method: type[Bridged], cfg: Placement, sites: list[Site], seed: int
) -> BridgedAdapter:
    """Build peft's tuner for `sites` beside the host and wire it in.

    Args:
        adapters: the host's `Adapters`.
        name, key, method, cfg, sites: as for a native adapter.
        seed: seed of everything random in the building; the global random state is left as it was.

    Raises:
        WorkbenchError: peft refuses the configuration for these sites.
    """
    before = _state(adapters.host, sites)
    modules = {s.path: adapters.host.get_submodule(s.path) for s in sites}
    tuner = _tuner(_mirror(adapters.host, modules), key, method, cfg, sites, seed)
    if _state(adapters.host, sites) != before:
        raise RuntimeError(f"peft's {method.peft_type} rewrites the base's weights; it cannot be bridged.")
    adapter = BridgedAdapter(name, key, method, cfg, sites, tuner)
    for _, part in adapter.named_parts():
        adapters._wire(name, part, part.site)
    return adapter


def _tuner(mirror: nn.Module, key: str, method: type[Bridged], cfg: Placement, sites: list[Site], seed: int) -> Any:
    """peft's model object around a mirror, its trainable tensors in fp32; draws from a fork of the global generators."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    values = {"target_modules": sorted({s.path for s in sites}), **method.peft_config(cfg, sites)}
    device = next(mirror.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's advice on configurations that a Config field decided
        torch.manual_seed(seed)
        try:
            config = PEFT_TYPE_TO_CONFIG_MAPPING[method.peft_type](**values)
            tuner = PEFT_TYPE_TO_TUNER_MAPPING[method.peft_type](mirror, config, NAME)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise WorkbenchError(f"{key} does not fit these modules: {' '.join(str(error).split()).rstrip('.')}.") from None
    tuner._cast_adapter_dtype(NAME)
    for param in tuner.parameters():
        if param.requires_grad and param.is_floating_point():
            param.data = param.data.float()
    return tuner


def _mirror(like: nn.Module, modules: Mapping[str, nn.Module]) -> nn.Module:
    """A module tree with the given modules at their own paths, as copies that share the originals' parameter tables."""
    root = nn.Module()
    for flag in ("is_loaded_in_8bit", "is_loaded_in_4bit", "hf_quantizer"):
        if hasattr(like, flag):
            object.__setattr__(root, flag, getattr(like, flag))
    for path, module in modules.items():
        twin = copy.copy(module)
        twin.__dict__.pop("forward", None)  # the kernel's patch stays with the original
        at = root
        *inner, leaf = path.split(".")
        for step in inner:
            if step not in at._modules:
                at.add_module(step, nn.Module())
            at = at._modules[step]  # type: ignore[assignment]
        at.add_module(leaf, twin)
    return root


def _state(host: nn.Module, sites: list[Site]) -> list[tuple[int, int, int]]:
    """What tells whether a base tensor was touched: its object, its address, its version."""
    params = [p for s in sites for p in host.get_submodule(s.path)._parameters.values() if p is not None]
    return [(id(p), p.data_ptr() if p.device.type != "meta" else 0, p._version) for p in params]


def peft_folder(adapter: BridgedAdapter) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `adapter_config.json` and `adapter_model.safetensors` of a plain peft folder must hold (the head is the exporter's).

    Returns:
        (config, tensors): JSON values, and tensors under the names that `PeftModel.from_pretrained` expects.
    """
    from peft import get_peft_model_state_dict

    # from a tuner as new: modifiers are evaluated, and nothing that a training left in peft's own objects is written
    bases = {p.site.path: p.layer.base_layer for _, p in adapter.named_parts()}  # type: ignore[union-attr]
    tuner = _tuner(_mirror(adapter.tuner.model, bases), adapter.key, adapter.method, adapter.cfg, adapter.sites, 0)  # type: ignore[arg-type]
    twin = BridgedAdapter(adapter.name, adapter.key, adapter.method, adapter.cfg, adapter.sites, tuner)  # type: ignore[arg-type]
    twin.load(adapter.tensors())
    wrapper = nn.Module()
    wrapper.base_model, wrapper.peft_config = tuner, tuner.peft_config
    tensors = get_peft_model_state_dict(wrapper, adapter_name=NAME, save_embedding_layers=False)
    # peft shortens long lists to suffixes that are unique in the mirror, but not in the host
    config = tuner.peft_config[NAME].to_dict() | {"target_modules": sorted(bases), "inference_mode": True}
    plain = {k: sorted(v) if isinstance(v, set) else getattr(v, "value", v) for k, v in config.items()}
    return plain, {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
