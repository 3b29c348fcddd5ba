"""Adapter Workbench: train many adaptation methods on one base model, compare them honestly, export what holds."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
_PLACES = {
    "attach": "workbench.kernel.host",
    "load_adapter": "workbench.export",
    "run_experiment": "workbench.services.experiments",
    "load_spec": "workbench.core.spec",
}
__all__ = ["attach", "load_adapter", "load_spec", "run_experiment"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for, so that `import workbench` stays instant."""
    if name not in _PLACES:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
