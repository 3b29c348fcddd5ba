"""`load_adapter`: an adapter folder of ours or of peft, on a model."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.core.errors import WorkbenchError
from workbench.evaluate import saved
from workbench.kernel import state
from workbench.kernel.host import adapters_of
from workbench.models.bundled import weights_sha256


def load_adapter(model: nn.Module | None, folder: str | Path, name: str = "adapter", dtype: str | None = None) -> nn.Module:
    """Put a stored adapter, head included, on a model.

    Args:
        model: a transformers model of the adapter's base; None loads the base with the task's head.
        folder: a run's adapter, a bundle, or a peft folder.
        name: what the adapter is called there: `model.workbench.members[name]`.
        dtype: dtype name for the base when it is loaded here; None = its own.

    Returns:
        The model, in eval mode where it was loaded here.

    Raises:
        WorkbenchError: no adapter that can be read, or one of another base model.
    """
    where = saved.place(folder)
    if not where.is_dir():
        raise WorkbenchError(f"an adapter must be a folder; {folder} is none.")
    stored = saved.read(where) if (where / state.META).is_file() else _foreign(where)
    if model is None:
        if name != "adapter":
            raise WorkbenchError("a model that is loaded here calls its adapter 'adapter'; give a model to choose another name.")
        return saved.revive(stored, where, getattr(torch, dtype) if dtype else None).host
    _same_base(model, stored.meta)
    adapters_of(model, tuple(h for h in stored.meta["head"] if _has(model, h)))
    state.restore(model, stored, name)
    return model


def _foreign(folder: Path) -> Any:
    from workbench.export import foreign

    return foreign.read(folder).stored


def _has(model: nn.Module, path: str) -> bool:
    return any(path == n for n, _ in model.named_modules())


def _same_base(model: nn.Module, meta: dict[str, Any]) -> None:
    """Compare the model with the adapter's base: by the hash of the folder it came from, else by its architecture."""
    source, kind = getattr(model, "name_or_path", ""), meta["base"].get("model_type")
    mine = getattr(getattr(model, "config", None), "model_type", None)
    if kind and mine and kind != mine:
        raise WorkbenchError(f"the adapter belongs on a {kind} model ({meta['base']['source']}); this is a {mine}.")
    if source and Path(source).is_dir() and any(Path(source).glob("*.safetensors")):
        now = weights_sha256(Path(source))
        if now != meta["base"]["sha256"]:
            wanted = meta["base"]["sha256"]
            raise WorkbenchError(
                f"the adapter must go on the base weights it was trained on (sha256 {wanted[:12]}...); {source} has {now[:12]}..."
            )
