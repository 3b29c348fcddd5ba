"""Reading and writing adapter folders: `workbench_adapter.json` + `adapter_model.safetensors` (+ `reference.safetensors`).

Base tensors that changed in few places (sparse fine-tuning) are stored as positions and values; everything else as it is.
A folder appears whole or not at all, and is checked against its own sha256 when it is read.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from workbench.core import failpoints
from workbench.core.durable import file_sha256, write_whole
from workbench.core.errors import WorkbenchError
from workbench.core.text import coded, named
from workbench.kernel import registry
from workbench.kernel.adapter import Adapter
from workbench.kernel.host import Adapters, adapters_of

META, WEIGHTS, REFERENCE = "workbench_adapter.json", "adapter_model.safetensors", "reference.safetensors"
FORMAT = 1
MAX_META_BYTES = 4_000_000
MAX_HEADER_BYTES = 100_000_000  # what safetensors itself accepts
SPARSE_SHARE = 0.3
"""Below this share of changed entries a base tensor is stored as positions and values."""


@dataclass(frozen=True)
class Stored:
    """An adapter folder in memory.

    Attributes:
        meta: the JSON: method, config, base, task, labels, versions, ...
        tensors: the adapter's own tensors, `base.<path>#at` / `#to` pairs where stored sparsely.
        head: the task head's tensors by their path in the host.
        reference: inputs and logits of a few rows.
    """

    meta: dict[str, Any]
    tensors: dict[str, Tensor]
    head: dict[str, Tensor] = field(default_factory=dict)
    reference: dict[str, Tensor] = field(default_factory=dict)


def pack(adapter: Adapter) -> dict[str, Tensor]:
    """The adapter's tensors as they are stored."""
    tensors = adapter.method.packed(adapter.cfg, {k: v.detach().cpu().contiguous() for k, v in adapter.tensors().items()})
    for path, (original, own, _) in adapter.originals().items():
        changed = (own.detach().cpu() != original.detach().cpu()).flatten().nonzero().flatten()
        if changed.numel() < SPARSE_SHARE * own.numel():
            value = tensors.pop(f"base.{path}").flatten()[changed]
            tensors |= {
                f"base.{path}#at": changed.to(torch.int32 if own.numel() < 2**31 else torch.int64),
                f"base.{path}#to": value,
            }
    return tensors


def unpack(adapter: Adapter, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stored tensors in the form `Adapter.load` wants."""
    own = {k: v for k, v in tensors.items() if not (k.startswith("base.") and k.endswith(("#at", "#to")))}
    full = adapter.method.unpacked(adapter.cfg, own)
    for path, (original, _, _) in adapter.originals().items():
        at, to = tensors.get(f"base.{path}#at"), tensors.get(f"base.{path}#to")
        if at is not None and to is not None:
            value = original.detach().cpu().flatten().clone()
            if at.numel() and not (int(at.min()) >= 0 and int(at.max()) < value.numel() and at.shape == to.shape):
                raise WorkbenchError(
                    f"the stored positions of base.{path} do not fit the base tensor; the adapter is of another base."
                )
            value[at.long()] = to.to(value.dtype)
            full[f"base.{path}"] = value.view_as(original)
    return full


def save(
    folder: Path,
    adapter: Adapter,
    meta: Mapping[str, Any],
    head: Mapping[str, Tensor] | None = None,
    reference: Mapping[str, Tensor] | None = None,
) -> None:
    """Write an adapter folder, whole or not at all.

    Args:
        folder: where; an older one is replaced.
        adapter: the attached adapter.
        meta: plain JSON values; `method` and `config` are filled in here.
        head: the task head's tensors by path.
        reference: inputs and logits of a few rows, for `verify`.
    """
    tensors = pack(adapter) | {f"head.{k}": v.detach().cpu().contiguous().clone() for k, v in (head or {}).items()}

    def fill(work: Path) -> None:
        save_file(tensors, work / WEIGHTS, metadata={"format": "pt"})
        facts = {
            "format": FORMAT,
            **meta,
            "method": adapter.key,
            "config": adapter.cfg.model_dump(mode="json"),
            "sha256": {WEIGHTS: file_sha256(work / WEIGHTS)},
        }
        if reference:
            save_file({k: v.detach().cpu().contiguous() for k, v in reference.items()}, work / REFERENCE)
            facts["sha256"][REFERENCE] = file_sha256(work / REFERENCE)
        (work / META).write_text(json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")
        (work / "README.md").write_text(_readme(facts))
        failpoints.reach("adapter.written")

    write_whole(folder, fill)


def _readme(facts: Mapping[str, Any]) -> str:
    base = facts.get("base", {})
    return (
        f"# {named(facts.get('label') or facts['method'])}\n\nAn adapter of the method `{facts['method']}` for the base model "
        f"{coded(base.get('source', 'unknown'))} (weights sha256 `{base.get('sha256', 'unknown')}`), "
        f"task `{facts.get('task', 'none')}`.\n"
        "Load it with `workbench.load_adapter(model, folder)`.\n"
    )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file; WorkbenchError if it is not a whole one."""
    try:
        _each_once(path)
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise WorkbenchError(
            f"{path.name} must be a whole safetensors file (save or download it again); reading it fails: "
            f"{str(error).splitlines()[0]}."
        ) from None


def _each_once(path: Path) -> None:
    """safetensors takes the last of two tensors with one name; which one was meant nobody knows."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        names = json.loads(file.read(size), object_pairs_hook=list) if size < MAX_HEADER_BYTES else []
    keys = [pair[0] for pair in names if isinstance(pair, tuple)]
    if len(set(keys)) != len(keys):
        raise ValueError("a tensor is named twice")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        WorkbenchError: not a whole safetensors file, or NaN or infinite values.
    """
    with _opened(path) as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a mapping
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise WorkbenchError(f"tensor {key!r} of {path.name} must be finite; it holds NaN or infinity.")
    return tensors


def read_meta(folder: Path) -> dict[str, Any]:
    """The JSON of one of our adapter folders; its files are checked against the sha256 it names.

    Raises:
        WorkbenchError: what is missing or changed.
    """
    if not (folder / META).is_file():
        raise WorkbenchError(f"an adapter folder must hold {META}; {folder.name} does not.")
    if (folder / META).stat().st_size > MAX_META_BYTES:
        raise WorkbenchError(f"{META} must be at most {MAX_META_BYTES // 10**6} MB.")
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        hashes = dict(meta["sha256"])
        good = meta["format"] == FORMAT and isinstance(meta["method"], str) and isinstance(meta["config"], dict)
    except (ValueError, KeyError, TypeError, RecursionError):
        good, hashes = False, {}
    if not good or WEIGHTS not in hashes:
        raise WorkbenchError(f"{META} must be the JSON that an export wrote (format {FORMAT}); this one is not.")
    for name in (WEIGHTS, REFERENCE):
        if name in hashes and (not (folder / name).is_file() or file_sha256(folder / name) != hashes[name]):
            raise WorkbenchError(f"{name} is missing or was changed since it was written (sha256 differs); export it again.")
    return meta


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file; no tensor is read.

    Raises:
        WorkbenchError: not a whole safetensors file.
    """
    with _opened(path) as file:
        return {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118 - not a mapping


def read(folder: Path) -> Stored:
    """Read and check one of our adapter folders.

    Raises:
        WorkbenchError: what is missing, changed or corrupted.
    """
    folder = Path(folder)
    meta = read_meta(folder)
    tensors = read_tensors(folder / WEIGHTS)
    head = {k.removeprefix("head."): v for k, v in tensors.items() if k.startswith("head.")}
    own = {k: v for k, v in tensors.items() if not k.startswith("head.")}
    return Stored(meta, own, head, read_tensors(folder / REFERENCE) if REFERENCE in meta["sha256"] else {})


def restore(host: nn.Module, stored: Stored, name: str = "adapter", head: tuple[str, ...] = ()) -> Adapter:
    """Attach a stored adapter to a host and load it, head included.

    Raises:
        WorkbenchError: the adapter does not fit this host; the host is left as it was.
    """
    adapters = adapters_of(host, head or tuple(stored.meta.get("head", ())))
    cfg = registry.configure(stored.meta["method"], stored.meta["config"])
    adapter = adapters.attach(name, stored.meta["method"], cfg)
    try:
        load(adapters, adapter, stored)
        load_head(host, stored.head)
    except Exception:
        adapters.detach(name)
        raise
    return adapter


def load(adapters: Adapters, adapter: Adapter, stored: Stored) -> None:
    """Copy stored tensors into an attached adapter; names and shapes must match exactly."""
    adapter.load(unpack(adapter, stored.tensors))
    adapters.activate(adapters.active)  # base tensors that several adapters change are summed at this point


def load_head(host: nn.Module, head: Mapping[str, Tensor]) -> None:
    """Copy the head's tensors into the host; every one must fit."""
    params = dict(host.named_parameters()) | dict(host.named_buffers())
    for path, value in head.items():
        if path not in params or params[path].shape != value.shape:
            got = "nothing of that name" if path not in params else f"shape {tuple(params[path].shape)}"
            raise WorkbenchError(f"the head tensor {path!r} needs shape {tuple(value.shape)}; the model has {got}.")
    with torch.no_grad():
        for path, value in head.items():
            params[path].copy_(value)
