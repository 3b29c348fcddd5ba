"""`verify`: does an exported folder still give the logits it was exported with, in a fresh process?"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.core.errors import WorkbenchError
from workbench.core.paths import named
from workbench.evaluate import saved
from workbench.export import foreign_config, fresh, manifest
from workbench.export.exporting import EXACT
from workbench.kernel import state
from workbench.tasks import Batch


def verify(folder: str | Path) -> dict[str, Any]:
    """Check a folder: hashes of its files, hash of the base weights, and logits in a fresh process.

    Args:
        folder: an export, or the adapter folder of a run.

    Returns:
        {ok, folder, format, method, rows, max_error, mean_error, limit, base_sha256}.

    Raises:
        WorkbenchError: one sentence about the first thing that is not as it was.
    """
    folder = named(folder, "the folder to verify")
    if not folder.is_dir():
        raise WorkbenchError(f"verify needs an exported folder; {folder} is none.")
    if (folder / manifest.NAME).is_file() or not (saved.place(folder) / state.META).is_file():
        claim, request, inputs, facts, wanted = _of_export(folder)
    else:
        claim, request, inputs, facts, wanted = _of_adapter(saved.place(folder))
    found = fresh.logits(request, [Batch(inputs, facts, torch.zeros(0), ())])
    largest, mean = fresh.distance([wanted], found)
    if not largest <= EXACT:
        raise WorkbenchError(
            f"the folder must give the logits it was exported with; in a fresh process they differ by up to {largest:.2g} "
            f"(allowed: {EXACT:.2g}): export it again."
        )
    facts_of = {"format": claim["format"], "method": claim["method"], "base_sha256": claim["base"]["sha256"]}
    return {
        "ok": True,
        "folder": str(folder),
        **facts_of,
        "rows": len(wanted),
        "max_error": largest,
        "mean_error": mean,
        "limit": EXACT,
    }


Parts = tuple[dict[str, Any], dict[str, Any], dict[str, Tensor], dict[str, Tensor], Tensor]


def _of_export(folder: Path) -> Parts:
    """Manifest, request and rows of an exported folder; a merged model needs no base."""
    claim = manifest.read(folder)
    inputs, facts, wanted = manifest.split(state.read_tensors(folder / manifest.ROWS))
    if claim["load"]["kind"] == "peft":
        foreign_config.check_safe(folder)
    base = None if claim["load"]["kind"] == "merged" else str(saved.base_folder(claim))
    return claim, {**claim["load"], "folder": str(folder), "base": base}, inputs, facts, wanted


def _of_adapter(folder: Path) -> Parts:
    """The same of an adapter folder as a run writes it; its logits are in the precision of the base."""
    stored = saved.read(folder)
    saved.base_folder(stored.meta)
    inputs, facts, wanted = manifest.split(stored.reference)
    claim = {"format": "adapter", "method": stored.meta["method"], "base": stored.meta["base"]}
    return claim, {"kind": "bundle", "folder": str(folder), "dtype": None}, inputs, facts, wanted


def verify_job(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The `verify` job: request {folder}."""
    if not isinstance(request.get("folder"), str):
        raise WorkbenchError("a verify request must name a folder; it does not: submit it again.")
    return verify(request["folder"])
