"""Reading somebody else's peft folder: literal values only, nothing is imported, matched as a pattern or guessed."""

import json
import re
from dataclasses import MISSING, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from workbench.core.errors import WorkbenchError
from workbench.core.paths import inside
from workbench.kernel.state import WEIGHTS, read_tensors

CONFIG = "adapter_config.json"
MAX_CONFIG_BYTES = 4_000_000
MAX_VALUE = 1e6
LITERAL = re.compile(r"[A-Za-z0-9_.]{1,300}")
LIBRARY = re.compile(r"transformers\.models\.\w+\.\w+")
COMMON = {
    *("peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "peft_version", "modules_to_save"),
    "auto_mapping",
}
_SIZES = {"num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules"}
READ = {
    "LORA": {
        *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "target_modules", "layers_to_transform"),
        *("init_lora_weights", "lora_dropout", "fan_in_fan_out"),
    },
    "IA3": {"target_modules", "feedforward_modules", "init_ia3_weights", "fan_in_fan_out"},
    "PROMPT_TUNING": {*_SIZES, "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path"},
    "PREFIX_TUNING": {*_SIZES, "encoder_hidden_size"},
}
"""peft type -> the fields that are understood; every other field must have peft's default."""


@dataclass(frozen=True)
class PeftFolder:
    """A checked config and its tensors in fp32."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def type(self) -> str:
        """peft's name of the method."""
        return self.config["peft_type"]


def read(folder: Path, trusted: bool = False) -> PeftFolder:
    """Read a peft folder.

    Args:
        folder: holds adapter_config.json and adapter_model.safetensors.
        trusted: an export of ours with matching hashes: types that peft runs may come with all their fields.

    Raises:
        WorkbenchError: one sentence about the first thing that is missing, dangerous, damaged or not understood.
    """
    config = _config(folder)
    kind = config.get("peft_type")
    if not isinstance(kind, str) or (kind not in READ and not trusted):
        raise WorkbenchError(
            f"peft_type must be one of {', '.join(READ)} to be imported; got {str(kind)[:60]!r}: use it with peft itself."
        )
    if kind in READ:
        _check_fields(config, kind)
    _check_safe(config)
    return PeftFolder(config, _tensors(folder))


def check_safe(folder: Path) -> None:
    """Whether plain peft may be let loose on a folder: nothing in its config makes it import, run or match patterns.

    Raises:
        WorkbenchError: one sentence about the first thing that does.
    """
    _check_safe(_config(folder))


def _check_safe(config: dict[str, Any]) -> None:
    _check_names(config)
    _check_mapping(config.get("auto_mapping"))
    for field in ("megatron_config", "tokenizer_kwargs", "layers_pattern", "exclude_modules", "arrow_config", "eva_config"):
        if config.get(field):
            raise WorkbenchError(f"{CONFIG} sets {field} to {str(config[field])[:60]!r}, which is refused; remove it.")
    if config.get("megatron_core") not in (None, "megatron.core"):
        raise WorkbenchError(f"{CONFIG} names the module {str(config['megatron_core'])[:60]!r} to import, which is refused.")


def _config(folder: Path) -> dict[str, Any]:
    path = inside(folder, CONFIG)
    if not path.is_file():
        raise WorkbenchError(
            f"an adapter to import must be a folder with {CONFIG} (peft) or workbench_adapter.json; {folder.name} has neither."
        )
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise WorkbenchError(f"{CONFIG} must be at most {MAX_CONFIG_BYTES // 10**6} MB.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error).split("\n")[0][:120]
        raise WorkbenchError(f"{CONFIG} must be valid JSON; it is not: {reason}.") from None
    if not isinstance(config, dict):
        raise WorkbenchError(f"{CONFIG} must be a JSON object; got {type(config).__name__}.")
    return config


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _check_fields(config: dict[str, Any], kind: str) -> None:
    """Every field is understood, or has peft's own default."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {f.name: f for f in fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind])}
    understood = COMMON | READ[kind]
    for name, value in config.items():
        if name in understood or value is None or value is False or value in ([], {}, ""):
            continue
        if name not in known:
            raise WorkbenchError(
                f"{CONFIG} has the field {name[:60]!r}, which peft {version('peft')} does not know; save it again with that peft."
            )
        field = known[name]
        default = (
            field.default
            if field.default is not MISSING
            else field.default_factory()
            if callable(field.default_factory)
            else None
        )
        if value != getattr(default, "value", default):
            raise WorkbenchError(
                f"{CONFIG} sets {name} to {str(value)[:60]!r}, which cannot be imported; use that adapter with peft itself."
            )
    if config.get("init_lora_weights", True) not in (True, False, "gaussian"):
        raise WorkbenchError(
            f"init_lora_weights must be true, false or gaussian to be imported; {str(config['init_lora_weights'])[:40]!r} "
            "changes the base: convert the adapter to plain LoRA first."
        )


def _check_mapping(mapping: Any) -> None:
    """peft imports `parent_library`; nothing but a model file of transformers is accepted, and it is not imported here."""
    if mapping is None:
        return
    good = isinstance(mapping, dict) and set(mapping) <= {"base_model_class", "parent_library", "unsloth_fixed"}
    library = mapping.get("parent_library") if good else None
    if not good or (library is not None and not (isinstance(library, str) and LIBRARY.fullmatch(library))):
        raise WorkbenchError(
            f"auto_mapping must name a model of transformers; got {str(mapping)[:80]!r}, which would import other code."
        )


def _check_names(config: dict[str, Any]) -> None:
    """Module names are literal: a string would be a regular expression, and some never end."""
    for field in ("target_modules", "feedforward_modules", "modules_to_save"):
        value = config.get(field)
        if value is None:
            continue
        if (
            not isinstance(value, list)
            or not all(isinstance(n, str) and LITERAL.fullmatch(n) for n in value)
            or len(value) > 10_000
        ):
            raise WorkbenchError(
                f"{field} must be a list of module names; got {str(value)[:60]!r}: patterns are refused, write the names out."
            )
    for field in ("rank_pattern", "alpha_pattern"):
        value = config.get(field) or {}
        if not isinstance(value, dict) or not all(LITERAL.fullmatch(n) for n in value):
            raise WorkbenchError(f"{field} must map module names to numbers; got {str(value)[:60]!r}: patterns are not imported.")
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base or "://" in base:
        raise WorkbenchError(f"base_model_name_or_path must be a folder, bundled/<name> or a Hub id; got {str(base)[:80]!r}.")
    if not isinstance(config.get("revision"), str | None):
        raise WorkbenchError(f"revision must be text; got {str(config['revision'])[:40]!r}.")


def number(config: dict[str, Any], name: str, low: float, high: float, whole: bool = False) -> float:
    """A number of the config, from low to high.

    Raises:
        WorkbenchError: it is none, or lies outside.
    """
    value = config.get(name)
    good = isinstance(value, int) if whole else isinstance(value, int | float)
    if not good or isinstance(value, bool) or not low <= value <= high:
        raise WorkbenchError(
            f"{name} must be a {'whole ' if whole else ''}number from {low:g} to {high:g}; got {str(value)[:40]!r}."
        )
    return value


def _tensors(folder: Path) -> dict[str, Tensor]:
    """The adapter's tensors in fp32: one safetensors file, finite, of trained size."""
    others = sorted(p.name for p in folder.iterdir() if p.name.startswith("adapter_model") and p.name != WEIGHTS)
    path = inside(folder, WEIGHTS)
    if not path.is_file():
        has = f"it has {others[0]}: save the adapter again as safetensors" if others else "it has no weights"
        raise WorkbenchError(f"an adapter must come as {WEIGHTS}; {has}.")
    if others:
        raise WorkbenchError(
            f"an adapter folder must hold one file of weights; it has {WEIGHTS} and {others[0]}: remove the one you do not mean."
        )
    tensors = read_tensors(path)
    if not tensors:
        raise WorkbenchError(f"{WEIGHTS} must hold tensors; it is empty.")
    for key, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise WorkbenchError(
                f"tensor {key!r} must hold floating-point numbers; it holds {str(tensor.dtype).removeprefix('torch.')}."
            )
        if tensor.numel() and float(tensor.abs().max()) > MAX_VALUE:
            raise WorkbenchError(f"tensor {key!r} must hold trained values; its largest is {float(tensor.abs().max()):.1g}.")
    if not any(bool(t.any()) for t in tensors.values()):
        raise WorkbenchError(f"{WEIGHTS} must hold trained values; every one is 0.")
    return {k: t.float() for k, t in tensors.items()}
