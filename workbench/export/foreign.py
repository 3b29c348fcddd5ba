"""From a peft folder to an adapter of ours on the same base: same places, same tensors, same logits."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.evaluate import saved
from workbench.export import foreign_config, manifest
from workbench.export.foreign_config import PeftFolder
from workbench.export.foreign_tensors import method_of, under
from workbench.kernel import registry
from workbench.kernel.adapter import Adapter
from workbench.kernel.host import adapters_of
from workbench.kernel.state import Stored
from workbench.models.bundled import resolve_model, weights_sha256
from workbench.tasks import find

TASKS = {"SEQ_CLS": "text_classification", "CAUSAL_LM": "causal_lm"}
CLASSES = {"ForSequenceClassification": "SEQ_CLS", "ForCausalLM": "CAUSAL_LM"}
MAX_LENGTH = 128


@dataclass(frozen=True)
class Import:
    """What was read: our form of the adapter, and how plain peft loads the same folder."""

    stored: Stored
    request: dict[str, Any]


def read(folder: Path) -> Import:
    """Convert a peft folder.

    Raises:
        WorkbenchError: one sentence about the first thing that is wrong, dangerous, not understood, or of another base.
    """
    own = manifest.read(folder) if (folder / manifest.NAME).is_file() else None
    given = foreign_config.read(folder, trusted=own is not None)
    base = _base(given.config, own)
    task_name = own["task"] if own else _task(given.config)
    labels = own["labels"] if own else _labels(base, given.tensors, find(task_name).has_labels)
    max_length = own["max_length"] if own else MAX_LENGTH
    task = find(task_name)(base, labels, max_length)
    host = task.host(0).float()
    paths = task.head(host)
    adapters = adapters_of(host, paths)
    head = _head(given, host, paths)
    own_tensors = {k: v for k, v in given.tensors.items() if _stripped(k) not in head}
    key, values, convert = method_of(given, own_tensors, adapters, own)
    adapter = adapters.attach("adapter", key, registry.configure(key, values))
    tensors = convert(adapter)
    meta = _meta(folder, given, own, host, adapter) | {"task": task_name, "labels": list(labels), "max_length": max_length}
    meta |= {"head": list(paths), "base": {**meta["base"], "sha256": weights_sha256(base)}}
    request = {"kind": "peft", "folder": str(folder), "base": str(base), "dtype": "float32"}
    return Import(Stored(meta, tensors, head), request)


def _meta(folder: Path, given: PeftFolder, own: dict[str, Any] | None, host: Any, adapter: Adapter) -> dict[str, Any]:
    """What our own adapter folders say, as far as this one says it."""
    known = own or {}
    base = {
        "source": given.config["base_model_name_or_path"],
        "revision": given.config.get("revision"),
        "model_type": host.config.model_type,
    }
    return {
        "method": adapter.key,
        "config": adapter.cfg.model_dump(mode="json"),
        "label": folder.name,
        "run_id": None,
        "preset": None,
        "modifiers": [],
        "recipe": None,
        "columns": known.get("columns", {}),
        "metrics": known.get("metrics", {}),
        "versions": {"peft": str(given.config.get("peft_version"))},
        "base": base,
    }


def _base(config: dict[str, Any], own: dict[str, Any] | None) -> Path:
    if own is not None:
        return saved.base_folder(own)
    base = resolve_model(config["base_model_name_or_path"], config.get("revision"))
    if "quantization_config" in json.loads((base / "config.json").read_text(encoding="utf-8")):
        raise WorkbenchError(
            f"the base model must not be quantised; {config['base_model_name_or_path']} is: name the full-precision model."
        )
    return base


def _task(config: dict[str, Any]) -> str:
    """The task by peft's own word or, without one, by the class the adapter was saved from."""
    kind = config.get("task_type")
    if kind is None and config.get("auto_mapping"):
        name = str(config["auto_mapping"].get("base_model_class"))
        kind = CLASSES.get("For" + name.partition("For")[2])
    if not isinstance(kind, str) or kind not in TASKS:
        raise WorkbenchError(f"task_type must be {' or '.join(TASKS)} to be imported; got {str(config.get('task_type'))[:40]!r}.")
    return TASKS[kind]


def _stripped(key: str) -> str:
    """A tensor's path in the host: peft wraps layers twice, prompt models once."""
    return key.removeprefix("base_model.").removeprefix("model.")


def _labels(base: Path, tensors: dict[str, Tensor], wanted: bool) -> list[str]:
    """Label names from the base's config where their number fits, else LABEL_0, LABEL_1, ..."""
    last = [
        t for k, t in tensors.items() if k.endswith(("classifier.weight", "score.weight", "out_proj.weight")) and t.dim() == 2
    ]
    if not wanted:
        return []
    if not last or not len(last[0]):
        raise WorkbenchError(
            "the adapter lacks tensor 'classifier.weight' or 'score.weight': without its head a classifier says nothing."
        )
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    named = [str(v) for _, v in sorted((config.get("id2label") or {}).items(), key=lambda item: int(item[0]))]
    return named if len(named) == len(last[0]) else [f"LABEL_{i}" for i in range(len(last[0]))]


def _head(given: PeftFolder, host: nn.Module, paths: tuple[str, ...]) -> dict[str, Tensor]:
    """The head's tensors by path in the host; all of them and nothing of the base."""
    for name in given.config.get("modules_to_save") or []:
        there = [p for p, _ in host.named_modules() if p == name or p.endswith(f".{name}")]
        if not there and name in ("classifier", "score"):
            continue  # peft lists both names whatever the model has
        if not there or any(not under(p, paths) for p in there):
            raise WorkbenchError(
                f"modules_to_save may name the task's head only ({', '.join(paths) or 'none'}); {name!r} is the base's."
            )
    wanted = {f"{p}.{n}" for p in paths for n in host.get_submodule(p).state_dict()}
    head = {_stripped(k): v for k, v in given.tensors.items() if under(_stripped(k), paths)}
    for word, odd in (("lacks", wanted - head.keys()), ("has an unexpected", head.keys() - wanted)):
        if odd:
            raise WorkbenchError(
                f"the adapter {word} tensor {min(odd)!r} ({len(odd)} in all); its head must be this base model's."
            )
    shapes = host.state_dict()
    for key, tensor in head.items():
        if tensor.shape != shapes[key].shape:
            raise WorkbenchError(
                f"tensor {key!r} must have shape {tuple(shapes[key].shape)} on this base; got {tuple(tensor.shape)}."
            )
    return head
