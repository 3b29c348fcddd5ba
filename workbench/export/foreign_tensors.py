"""From the tensors of a peft file to the tensors of one of our methods, at the same places of the same base."""

import json
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from workbench.backbones.family import block_number
from workbench.core.errors import WorkbenchError
from workbench.core.types import Site
from workbench.export import foreign_config
from workbench.export.foreign_config import PeftFolder, number
from workbench.export.peft import PREFIX, names, shaped
from workbench.kernel import registry
from workbench.kernel.adapter import Adapter
from workbench.kernel.host import Adapters

Convert = Callable[[Adapter], dict[str, Tensor]]


def method_of(
    given: PeftFolder, tensors: dict[str, Tensor], adapters: Adapters, own: dict[str, Any] | None
) -> tuple[str, dict[str, Any], Convert]:
    """(method key, its config, what turns a fresh adapter into the stored tensors)."""
    if given.type not in foreign_config.READ:
        method = registry.methods().get(own["method"]) if own else None
        if method is None or getattr(method, "peft_type", None) != given.type:
            raise WorkbenchError(f"peft_type {given.type[:60]!r} cannot be imported here; use that adapter with peft itself.")
        return own["method"], own["config"], lambda adapter: _through_peft(adapter, tensors, given.config)  # type: ignore[index]
    config = given.config
    if "target_modules" not in foreign_config.READ[given.type]:
        prompt = {"n_tokens": number(config, "num_virtual_tokens", 1, 1024, whole=True)}
        key = {"PROMPT_TUNING": "prompt_tuning", "PREFIX_TUNING": "prefix_tuning"}[given.type]
        return key, prompt, lambda adapter: _through_twin(adapter, tensors, {})
    places = targeted(config, adapters)
    sites = [s for some in places.values() for s in some]
    placement = {
        "roles": tuple(dict.fromkeys(s.role for s in sites)),
        "depths": tuple(sorted({s.depth for s in sites if s.depth >= 0})) or None,
    }
    if given.type == "IA3":
        _check_inward(config, places)
        return "ia3", placement, lambda adapter: _through_twin(adapter, tensors, places)
    key, values, factors = _lora(config, places)
    return key, {**placement, **values}, lambda adapter: _through_twin(adapter, _padded(tensors, values["rank"], factors), places)


def targeted(config: dict[str, Any], adapters: Adapters) -> dict[str, list[Site]]:
    """Module path -> its sites, of every module that peft would adapt.

    Raises:
        WorkbenchError: a name matches nothing, or a module that no role names.
    """
    layers = config.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers
    if layers is not None and not (isinstance(layers, list) and all(isinstance(n, int) for n in layers)):
        raise WorkbenchError(f"layers_to_transform must be block numbers; got {str(layers)[:60]!r}.")
    by_path: dict[str, list[Site]] = {}
    for site in adapters.sites:
        if site.kind in ("linear", "conv1d", "conv2d", "embedding") and site.role not in ("other", "head", "norms"):
            by_path.setdefault(site.path, []).append(site)
    found: dict[str, list[Site]] = {}
    for name in config.get("target_modules") or []:
        paths = [
            p
            for p, _ in adapters.host.named_modules()
            if (p == name or p.endswith(f".{name}")) and not p.startswith("workbench.")
        ]
        paths = [p for p in paths if (layers is None or block_number(p) in layers) and not under(p, adapters.head)]
        strange = [p for p in paths if p not in by_path]
        if not paths or strange:
            reason = f"the module {strange[0]} has no role here" if strange else f"{name!r} matches nothing in this base model"
            raise WorkbenchError(f"target_modules must name weights of the base's blocks; {reason}.")
        found |= {p: by_path[p] for p in paths}
    if not found:
        raise WorkbenchError("target_modules must name at least one module; it is empty.")
    return found


def _check_inward(config: dict[str, Any], places: dict[str, list[Site]]) -> None:
    """(IA)3 scales inputs at exactly the feed-forward's last weight, here as in its paper."""
    inward = config.get("feedforward_modules") or []
    for path, sites in places.items():
        said = any(path == n or path.endswith(f".{n}") for n in inward)
        if said != (sites[0].role == "ffn.down"):
            raise WorkbenchError(
                f"feedforward_modules must be the blocks' last feed-forward weights; {path} ({sites[0].role}) differs."
            )


def _lora(config: dict[str, Any], places: dict[str, list[Site]]) -> tuple[str, dict[str, Any], dict[str, tuple[int, float]]]:
    """(method, config, path -> (its rank, factor on B)): ranks and scales of single modules are folded into B."""
    number(config, "r", 1, 1024, whole=True)
    number(config, "lora_alpha", 1e-6, 4096)
    stable, dora = (config.get(k, False) for k in ("use_rslora", "use_dora"))
    if not isinstance(stable, bool) or not isinstance(dora, bool) or (stable and dora):
        raise WorkbenchError("use_rslora and use_dora must be true or false, and not both true, to be imported.")

    def of(pattern: str, path: str, default: float, high: float, whole: bool) -> float:
        table = config.get(pattern) or {}
        name = next((n for n in table if path == n or path.endswith(f".{n}")), None)
        return default if name is None else number(table, name, 1 if whole else 1e-6, high, whole)

    ranks = {p: int(of("rank_pattern", p, config["r"], 1024, True)) for p in places}
    alphas = {p: of("alpha_pattern", p, config["lora_alpha"], 4096, False) for p in places}
    rank, alpha = max(ranks.values()), float(config["lora_alpha"])

    def scale(a: float, r: int) -> float:
        return a / (math.sqrt(r) if stable else r)

    factors = {p: (ranks[p], scale(alphas[p], ranks[p]) / scale(alpha, rank)) for p in places}
    values = {"rank": rank, "alpha": alpha, "dropout": number({"lora_dropout": 0.0, **config}, "lora_dropout", 0, 0.999)}
    return ("dora", values, factors) if dora else ("lora", {**values, "rank_stabilised": stable}, factors)


def _padded(tensors: dict[str, Tensor], rank: int, factors: dict[str, tuple[int, float]]) -> dict[str, Tensor]:
    """Factors of a smaller rank filled up with zeros, B with its module's factor."""
    found = {}
    for key, tensor in tensors.items():
        own, factor = factors.get(key.removeprefix(PREFIX).partition(".lora_")[0], (0, 1.0))
        inner = key.endswith((".lora_A.weight", "lora_embedding_A"))
        if own and (inner or key.endswith((".lora_B.weight", "lora_embedding_B"))):
            axis = 0 if inner else 1
            if tensor.dim() < 2 or tensor.shape[axis] != own:
                raise WorkbenchError(
                    f"tensor {key!r} must have the rank {own} of its module; got the shape {tuple(tensor.shape)}."
                )
            room = [*tensor.shape]
            room[axis] = rank - own
            tensor = torch.cat([tensor, tensor.new_zeros(room)], axis) if rank > own else tensor
            tensor = tensor if inner or factor == 1.0 else tensor * factor
        found[key] = tensor
    return found


def _through_twin(adapter: Adapter, tensors: dict[str, Tensor], places: dict[str, list[Site]]) -> dict[str, Tensor]:
    """A fresh adapter's tensors with those of the file in their places; sites that the file does not adapt stay at the start."""
    mine = adapter.tensors()
    result, used = {k: v.detach().cpu().clone() for k, v in mine.items()}, set()
    wanted = {k: (name, site) for k, (name, site) in names(adapter).items() if not places or site.path in places}
    for key, (name, site) in wanted.items():
        if name not in tensors:
            raise WorkbenchError(
                f"the adapter lacks tensor {name!r}; adapter_config.json says that it is there: download it again."
            )
        used.add(name)
        value = tensors[name]
        if site.rows is not None and ".lora_A." not in name and len(value) > site.d_out:
            value = value[slice(*site.rows)]
        shape = shaped(mine[key], site, name).shape
        if value.shape != shape:
            raise WorkbenchError(
                f"tensor {name!r} must have shape {tuple(shape)} on this base; got {tuple(value.shape)}: it is of another model."
            )
        result[key] = value.reshape(mine[key].shape).contiguous().clone()
    if odd := tensors.keys() - used:
        raise WorkbenchError(
            f"the adapter has an unexpected tensor {min(odd)!r} ({len(odd)} in all); adapter_config.json does not name its place."
        )
    return result


def _through_peft(adapter: Any, tensors: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """What peft makes of its own file, in the tuner that the bridge built."""
    from peft import set_peft_model_state_dict

    from workbench.kernel.peft_bridge import NAME, peft_folder

    facts, fresh = peft_folder(adapter)
    facts = json.loads(json.dumps(facts, default=sorted))
    odd = next((k for k, v in facts.items() if k not in foreign_config.COMMON and config.get(k) != v), None)
    odd = odd or next((k for k in config if k not in facts and k not in foreign_config.COMMON), None)
    if odd is not None:
        raise WorkbenchError(
            f"adapter_config.json must say of {odd} what the manifest's configuration means; it does not: export it again."
        )
    if {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in fresh.items()}:
        raise WorkbenchError("the adapter's tensors must be those of its configuration on this base; names or shapes differ.")
    wrapper = nn.Module()
    wrapper.base_model = adapter.tuner
    wrapper.peft_config = adapter.tuner.peft_config
    set_peft_model_state_dict(wrapper, dict(tensors), adapter_name=NAME)
    return {k: v.detach().cpu().clone() for k, v in adapter.tensors().items()}


def under(path: str, heads: tuple[str, ...]) -> bool:
    """Whether a path lies in one of some modules."""
    return any(path == h or path.startswith(f"{h}.") for h in heads)
