"""What a base model's own files may ask for: nothing that fetches or runs code, and errors of loading as one sentence."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from workbench.core.errors import WorkbenchError

FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
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
    """Refuse settings that make transformers fetch kernels.

    Raises:
        WorkbenchError: one sentence about the first such setting, or a file that is no JSON object.
    """
    for name in FILES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ValueError(f"it has more than {MAX_BYTES // 10**6} MB")
            value = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(value, dict):
                raise ValueError(f"it is a {type(value).__name__}")
            asked = next(_kernels(value), None)
        except (OSError, ValueError, RecursionError) as error:
            deep = isinstance(error, RecursionError)
            reason = "it is nested too deep" if deep else str(error).splitlines()[0][:120].rstrip(".")
            raise WorkbenchError(f"{name} of the model {folder.name} must be a JSON object; {reason}.") from None
        if asked:
            raise WorkbenchError(f"{name} of the model {folder.name} asks for the code {asked}, which is refused; remove it.")


def _kernels(value: Any) -> Iterator[str]:
    """Every `key = value` in nested settings that names code of others."""
    if isinstance(value, list):
        for one in value:
            yield from _kernels(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            if KERNEL.fullmatch(key):
                wanted = one.values() if isinstance(one, dict) else [one]
                yield from (f"{key} = {str(w)[:60]!r}" for w in wanted if w not in PLAIN)
            yield from _kernels(one)


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
    except (OSError, ValueError, TypeError, AttributeError, ImportError, KeyError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        sentence = f"transformers must be able to load the model {folder.name} without its code; {reason}."
        raise Unloadable(sentence, reason) from None
