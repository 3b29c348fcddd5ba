"""Analyses of runs, adapters and models: typed functions that return tables. None is built yet."""

from pathlib import Path
from typing import Any

from workbench.core.errors import NotBuiltYet


def run_job(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The worker's entry for jobs of the kind `analyse`."""
    raise NotBuiltYet("analyses are not built yet; compare, export and predict are.")
