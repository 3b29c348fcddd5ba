"""What a base model's own files may ask for: no code, and no weights but those beside them; errors of loading as one sentence."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from workbench.core.errors import WorkbenchError

FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
INDEX, ADAPTER = "*.index.json", "adapter_config.json"
SHARD = re.compile(r"[^/\\]+\.safetensors")
MAX_BYTES = 16_000_000
KERNEL = re.compile(r"_?(attn|experts)_implementation(_internal)?|.*kernel_(repo|mapping|config)|use_kernels")
PLAIN = (None, False, "", "eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "batched_mm", "grouped_mm")
"""Implementations that come with torch or an installed package; any other name is a repository whose code would be fetched."""


class Unloadable(WorkbenchError):
    """transformers cannot read a model folder; `reason` is what it complains of."""

    def __init__(self, sentence: str, reason: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def check(folder: Path) -> None:
    """Refuse settings that make transformers fetch kernels, or read weights that are no safetensors of this folder.

    Raises:
        WorkbenchError: one sentence about the first such setting, or a file that is no JSON object.
    """
    if (folder / ADAPTER).exists():
        raise WorkbenchError(
            f"a model folder must hold no {ADAPTER}, which names another base; {folder.name} does: import it instead."
        )
    for name in FILES:
        value = _object(folder, name) if (folder / name).is_file() else {}
        if asked := next(_kernels(value), None):
            raise WorkbenchError(f"{name} of the model {folder.name} asks for the code {asked}, which is refused; remove it.")
        _check_shards(folder, name, [value.get("transformers_weights") or "model.safetensors"])
    for path in sorted(folder.glob(INDEX)):
        shards = _object(folder, path.name).get("weight_map")
        _check_shards(folder, path.name, shards.values() if isinstance(shards, dict) else [shards])


def _object(folder: Path, name: str) -> dict[str, Any]:
    try:
        if (folder / name).stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES // 10**6} MB")
        value = json.loads((folder / name).read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"it is a {type(value).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error).splitlines()[0][:120].rstrip(".")
        raise WorkbenchError(f"{name} of the model {folder.name} must be a JSON object; {reason}.") from None
    return value


def _check_shards(folder: Path, name: str, shards: Iterable[Any]) -> None:
    """transformers itself reads whatever file an index names, pickles and files of other folders too."""
    for shard in shards:
        if not (isinstance(shard, str) and SHARD.fullmatch(shard)):
            raise WorkbenchError(
                f"{name} of the model {folder.name} must name .safetensors files of its own folder; got {str(shard)[:80]!r}: "
                "save the model again."
            )


def _kernels(value: Any) -> Iterator[str]:
    """Every `key = value` in nested settings that names code of others."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            waiting += one.values()
            for key, asked in one.items():
                if KERNEL.fullmatch(key):
                    wanted = asked.values() if isinstance(asked, dict) else [asked]
                    yield from (f"{key} = {str(w)[:60]!r}" for w in wanted if w not in PLAIN)


def loaded(what: Any, folder: Path, **options: Any) -> Any:
    """`what.from_pretrained(folder)` from local files alone, without any code that lies there.

    Args:
        what: a class of transformers, e.g. AutoConfig.
        folder: a checked model folder.
        options: passed on.

    Raises:
        Unloadable: transformers cannot read it.
    """
    try:
        return what.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except SafetensorError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        sentence = f"the weights of the model {folder.name} must be whole safetensors files; {reason}."
        raise Unloadable(sentence, reason) from None
    except (OSError, ValueError, TypeError, AttributeError, ImportError, KeyError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        sentence = f"transformers must be able to load the model {folder.name} without its code; {reason}."
        raise Unloadable(sentence, reason) from None
