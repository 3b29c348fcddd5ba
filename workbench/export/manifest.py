"""`workbench_export.json`: what an exported folder claims, the hashes of its files, and rows with logits to check it by."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from workbench.core.errors import WorkbenchError
from workbench.core.paths import inside
from workbench.evaluate.saved import Revived
from workbench.kernel.state import file_sha256
from workbench.tasks import Batch

NAME, ROWS = "workbench_export.json", "check/rows.safetensors"
FORMAT = 1
MAX_BYTES = 8_000_000
KEPT = (
    "run_id",
    "label",
    "preset",
    "modifiers",
    "recipe",
    "operation",
    "base",
    "task",
    "labels",
    "max_length",
    "columns",
    "entries",
    "head",
    "metrics",
    "versions",
)


def write(
    work: Path,
    revived: Revived,
    format: str,
    request: dict[str, Any],
    facts: dict[str, Any],
    check: dict[str, Any],
    kept: Batch,
    logits: Tensor,
) -> None:
    """Store a few rows with their logits, then the manifest over all files that lie there.

    Args:
        work: the folder that is being written.
        revived: the model.
        format, facts, check: what was written, and how it did in a fresh process.
        request: how a fresh process loads it.
        kept, logits: the rows that stay with the folder, and what `verify` must find again.
    """
    tensors = (
        {f"input.{k}": v for k, v in kept.inputs.items()} | {f"fact.{k}": v for k, v in kept.facts.items()} | {"logits": logits}
    )
    (work / ROWS).parent.mkdir()
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, work / ROWS)
    claim = {
        "format_version": FORMAT, "format": format,
        "load": {k: request[k] for k in ("kind", "dtype", "auto", "settings")},
        "method": revived.adapter.key, "config": revived.adapter.cfg.model_dump(mode="json"),
        **{k: revived.meta[k] for k in KEPT if k in revived.meta}, "facts": facts, "check": check,
        "files": {str(p.relative_to(work)): file_sha256(p) for p in sorted(work.rglob("*")) if p.is_file()},
    }  # fmt: skip
    (work / NAME).write_text(
        json.dumps(claim, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )


def read(folder: Path) -> dict[str, Any]:
    """The manifest, its files compared with their hashes.

    Raises:
        WorkbenchError: it is no manifest, or a file is missing or was changed.
    """
    path = folder / NAME
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise WorkbenchError(f"an exported folder must hold {NAME}; {folder.name} does not: export the run again.")
    try:
        claim = json.loads(path.read_text(encoding="utf-8"))
        files, load, base = claim["files"], claim["load"], claim["base"]
        good = (
            claim["format_version"] == FORMAT
            and isinstance(claim["check"], dict)
            and load["kind"] in ("peft", "merged", "bundle")
        )
        good = (
            good
            and ROWS in files
            and all(isinstance(v, str) for v in (base["source"], base["sha256"], load["auto"], claim["format"], *files.values()))
        )
        good = (
            good
            and load["auto"].startswith("AutoModelFor")
            and load["auto"].isidentifier()
            and isinstance(load["settings"], dict)
            and load["dtype"] in ("float32", None)
        )
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
        good = False
    if not good:
        raise WorkbenchError(
            f"{NAME} must be the JSON that an export wrote (format {FORMAT}); this one is not: export the run again."
        )
    if not {(k, type(v)) for k, v in load["settings"].items()} <= {("num_labels", int), ("pad_token_id", int)}:
        raise WorkbenchError(f"{NAME} may load a base with num_labels and pad_token_id only; got {str(load['settings'])[:80]}.")
    _check_files(folder, files)
    return claim


def _check_files(folder: Path, files: dict[str, str]) -> None:
    """Every file is as it was written, and none was added that a loader might pick up."""
    for name, digest in files.items():
        file = inside(folder, name)
        if not file.is_file() or file_sha256(file) != digest:
            raise WorkbenchError(f"{name[:100]} is missing or was changed since the export (sha256 differs); export it again.")
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}
    if added := there - files.keys() - {NAME, "README.md"}:
        raise WorkbenchError(f"the folder holds {min(added)!r}, which the export did not write; remove it.")


def split(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """(inputs, facts, logits) of a rows file."""
    inputs = {k.removeprefix("input."): v for k, v in tensors.items() if k.startswith("input.")}
    facts = {k.removeprefix("fact."): v for k, v in tensors.items() if k.startswith("fact.")}
    if not inputs or "logits" not in tensors:
        raise WorkbenchError(f"{ROWS} must hold inputs and logits; it does not: export the run again.")
    return inputs, facts, tensors["logits"].to(torch.float32)
