"""The `analyse` job: read the runs, apply an analysis, and give back what it found as plain values. Nothing else is written."""

import platform
from pathlib import Path
from typing import Any

import torch

from workbench.analyses import find
from workbench.analyses.contract import Run, device


def run_job(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Do what {analysis, settings, runs: [{reference, label, adapter, row, history, measured}]} asks.

    Returns:
        {analysis, settings, runs: [run id], device, threads, tables: {name: [row]}, figures, sentences, per_run}, and of one that
        measures times also `neighbours`, which the worker sets when other jobs ran beside it.

    Raises:
        WorkbenchError: unknown analysis, a bad option, or an adapter whose base is gone.
    """
    runs = [Run(**{**one, "adapter": Path(one["adapter"])}) for one in request["runs"]]
    chosen = find(request["analysis"])
    found = chosen(runs, request["settings"])
    name = torch.cuda.get_device_name() if device() == "cuda" else platform.processor() or "cpu"
    return {
        "analysis": request["analysis"],
        "settings": dict(request["settings"]),
        "runs": [run.reference for run in runs],
        "device": name,
        "threads": torch.get_num_threads(),
        **({"neighbours": False} if chosen.timed else {}),
        "tables": {name: frame.to_dict(orient="records") for name, frame in found.tables.items()},
        "figures": dict(found.figures),
        "sentences": list(found.sentences),
        "per_run": dict(found.per_run),
    }
