"""Taking an adapter folder in: checked, converted to our form, compared with plain peft in a fresh process, then kept."""

from pathlib import Path
from typing import Any

from workbench.core import paths
from workbench.core.errors import WorkbenchError
from workbench.evaluate import saved
from workbench.export import foreign, fresh, manifest, peft
from workbench.export.exporting import EXACT, compared, free_disk
from workbench.kernel import state


def import_folder(folder: str | Path, name: str) -> dict[str, Any]:
    """Keep a peft folder, a bundle or a run's adapter as `<home>/adapters/<name>`.

    Args:
        folder: what somebody else, or an export, wrote.
        name: a new name.

    Returns:
        {name, folder, method, task, base, rows, max_error, mean_error, checked}.

    Raises:
        WorkbenchError: one sentence; nothing is kept.
    """
    folder, target = _places(paths.named(folder, "the adapter to import"), name)
    where = saved.place(folder)
    imported = foreign.Import(*_bundle(where)) if (where / state.META).is_file() else _foreign(folder)
    revived = saved.revive(imported.stored, where)
    rows = saved.stored_rows(imported.stored) if imported.stored.reference else saved.drawn_rows(revived)
    ours = saved.logits(revived, rows.batches)
    request = {**imported.request, "auto": "AutoModel" + peft.head_class(revived.host), "settings": peft.settings(revived)}
    check = compared(revived, rows, ours, fresh.logits(request, rows.batches), EXACT)
    batch = rows.batches[0]
    reference = (
        {f"input.{k}": v for k, v in batch.inputs.items()}
        | {f"fact.{k}": v for k, v in batch.facts.items()}
        | {"logits": ours[0]}
    )
    dropped = {"sha256", "format", "method", "config"}
    meta = {k: v for k, v in imported.stored.meta.items() if k not in dropped} | {"label": name, "imported_from": folder.name}
    _check_free(target)  # the name may have been taken while this one was checked
    with free_disk(target):
        state.save(target, revived.adapter, meta, imported.stored.head, reference)
    facts = {"method": revived.adapter.key, "task": meta["task"], "base": meta["base"]["source"], "rows": check.rows}
    return {
        "name": name,
        "folder": str(target),
        **facts,
        "max_error": check.max_error,
        "mean_error": check.mean_error,
        "checked": True,
    }


def _places(folder: Path, name: str) -> tuple[Path, Path]:
    """The folder to read and the one to write, both as they must be."""
    target = paths.home() / "adapters" / paths.safe_name(name, "--name")
    _check_free(target)
    if not folder.is_dir():
        raise WorkbenchError(f"the adapter to import must be a folder; {folder} is none.")
    return folder, target


def _check_free(target: Path) -> None:
    if target.exists():
        raise WorkbenchError(f"an adapter is called {target.name!r} already; choose another --name.")


def _bundle(folder: Path) -> tuple[state.Stored, dict[str, Any]]:
    if (folder / manifest.NAME).is_file():
        manifest.read(folder)
    return saved.read(folder), {"kind": "bundle", "folder": str(folder), "dtype": "float32"}


def _foreign(folder: Path) -> foreign.Import:
    if (folder / manifest.NAME).is_file() and manifest.read(folder)["load"]["kind"] == "merged":
        raise WorkbenchError(
            f"a merged export is a whole model, not an adapter; name {folder} as the model of an experiment instead."
        )
    return foreign.read(folder)
