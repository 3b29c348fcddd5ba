"""The `operate` job: read adapters, apply an operation, put the result on the base again and keep it under its name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from workbench.core import paths
from workbench.core.errors import WorkbenchError
from workbench.evaluate import saved
from workbench.kernel import state
from workbench.operations import find

REFERENCE_ROWS = 8


def run_job(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Do what {operation, adapters: [folder], settings, name, judge} asks; the result is an adapter folder in `<home>/adapters`.

    Returns:
        {name, folder, method, tensors, operation, parents, trainable_params, metrics}; metrics are those on the test rows of
        the first adapter's run where `judge` asks for them, else empty.

    Raises:
        WorkbenchError: adapters of different bases, bad settings, or a name that is taken.
    """
    target = paths.inside(paths.home() / "adapters", paths.safe_name(request["name"], "--name"))
    if target.exists():
        raise WorkbenchError(f"an adapter is called {target.name!r} already; choose another --name.")
    adapters = [saved.read(saved.place(one)) for one in request["adapters"]]
    meta = adapters[0].meta
    base = saved.base_folder(meta)
    made = find(request["operation"])(adapters, saved.task_of(meta, base).host(), dict(request["settings"]))
    parents = [a.meta.get("run_id") or saved.place(f).name for a, f in zip(adapters, request["adapters"], strict=True)]
    facts = {"operation": request["operation"], "settings": dict(request["settings"]), "parents": parents}
    own = {k: v for k, v in made.meta.items() if k not in ("run_id", "metrics", "sha256", "format")}
    made = replace(made, meta={**own, **facts, "label": target.name}, reference=adapters[0].reference)
    told = _keep(made, target, bool(request.get("judge")))
    what = {"name": target.name, "folder": str(target), "method": made.meta["method"], "tensors": len(made.tensors)}
    return {**what, **facts, **told}


@torch.no_grad()
def _keep(made: state.Stored, target: Path, judge: bool) -> dict[str, Any]:
    """Restore the adapter on its base, so that what is written is known to fit, and store it with a few rows and logits."""
    revived = saved.revive(made, target)
    told = {"trainable_params": revived.adapter.differing(), "metrics": saved.judge(revived) if judge else {}}
    batch = saved.shorter(saved.some_test_rows(revived).batches[0], revived.host, revived.task, REFERENCE_ROWS)
    logits = saved.logits(revived, [batch])[0]
    reference = {f"input.{k}": v for k, v in batch.inputs.items()} | {f"fact.{k}": v for k, v in batch.facts.items()}
    meta = {k: v for k, v in made.meta.items() if k not in ("method", "config")} | ({"metrics": told["metrics"]} if judge else {})
    state.save(target, revived.adapter, meta, made.head, {**reference, "logits": logits})
    return told
