"""Adapters that leave the workbench, and adapters that come in: every folder is checked in a fresh process."""

from importlib import import_module
from typing import Any

_PLACES = {
    "export": "exporting",
    "run_job": "exporting",
    "verify": "verifying",
    "verify_job": "verifying",
    "predict": "predicting",
    "import_folder": "importing",
    "load_adapter": "load",
}
__all__ = ["export", "import_folder", "load_adapter", "predict", "run_job", "verify", "verify_job"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for; no module of this package is named like a function."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
