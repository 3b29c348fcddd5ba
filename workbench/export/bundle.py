"""The workbench's own folder: every method with all its tensors, as the run saved it."""

import shutil
from pathlib import Path
from typing import Any

from workbench.evaluate.saved import Revived
from workbench.kernel.state import META, REFERENCE, WEIGHTS


def refusal(revived: Revived) -> str:
    """Empty: every adapter has a bundle."""
    return ""


def write(revived: Revived, work: Path) -> dict[str, Any]:
    """Copy the checked files of the adapter folder, and nothing else that lies there."""
    for name in (META, WEIGHTS, REFERENCE):
        if name == META or name in revived.meta["sha256"]:
            shutil.copyfile(revived.folder / name, work / name)
    return {}


def usage(revived: Revived) -> str:
    """How to load the folder."""
    return 'from workbench import load_adapter\n\nmodel = load_adapter(None, ".")\n'
