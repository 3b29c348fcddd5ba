"""Analyses of trained runs: one typed function a file, found by walking the folder."""

from functools import cache
from pathlib import Path
from typing import Any

from workbench.analyses.contract import Analysis, Result, Run
from workbench.core.errors import unknown

__all__ = ["Analysis", "Result", "Run", "find", "listing", "names", "run_job"]


@cache
def _all() -> dict[str, Analysis]:
    from workbench.kernel.registry import modules

    return {key: getattr(module, key) for key, module in sorted(modules("workbench.analyses").items())}


def names() -> list[str]:
    """Keys of all analyses."""
    return list(_all())


def find(name: str) -> Analysis:
    """The analysis called `name`; unknown names get the closest ones."""
    if name not in _all():
        raise unknown("analysis", name, _all())
    return _all()[name]


def listing() -> list[dict[str, Any]]:
    """Every analysis as plain values: key, title, text, least, beside, options (JSON Schema)."""
    import inspect

    found = []
    for key, one in _all().items():
        title, _, text = (inspect.getdoc(inspect.getmodule(one.function)) or "").partition("\n")
        schema = one.options.model_json_schema()
        facts = {"least": one.least, "beside": list(one.beside), "options": schema}
        found.append({"key": key, "title": title.rstrip("."), "text": text.strip(), **facts})
    return found


def run_job(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The `analyse` job; see `run`."""
    from workbench.analyses import run

    return run.run_job(request, folder)
