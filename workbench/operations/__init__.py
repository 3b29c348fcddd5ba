"""Operations on trained adapters: one typed function a file, found by walking the folder."""

from functools import cache
from pathlib import Path
from typing import Any

from workbench.core.errors import unknown
from workbench.operations.contract import Operation

__all__ = ["Operation", "find", "listing", "names", "run_job", "schema"]


@cache
def _all() -> dict[str, Operation]:
    from workbench.kernel.registry import modules

    return {key: getattr(module, key) for key, module in sorted(modules("workbench.operations").items())}


def names() -> list[str]:
    """Keys of all operations."""
    return list(_all())


def find(name: str) -> Operation:
    """The operation called `name`; unknown names get the closest ones."""
    if name not in _all():
        raise unknown("operation", name, _all())
    return _all()[name]


def schema(name: str) -> dict[str, Any]:
    """JSON Schema of an operation's options, from its signature."""
    return find(name).options.model_json_schema()


def listing() -> list[dict[str, Any]]:
    """Every operation as plain values: key, title, number of adapters, options, paper."""
    import inspect

    found = []
    for key, op in _all().items():
        title = (inspect.getdoc(inspect.getmodule(op.function)) or "").partition("\n")[0]
        paper = None if op.paper is None else {"cite": op.paper.cite, "url": op.paper.url}
        found.append({"key": key, "title": title, "least": op.least, "most": op.most, "options": schema(key), "paper": paper})
    return found


def run_job(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The `operate` job; see `run`."""
    from workbench.operations import run

    return run.run_job(request, folder)
