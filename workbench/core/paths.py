"""Where things lie: everything the workbench writes is under one home folder."""

import os
import re
from pathlib import Path

from workbench.core.errors import WorkbenchError

ROOT = Path(__file__).resolve().parents[2]
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@#-]{0,119}")


def home() -> Path:
    """The folder named by `WORKBENCH_HOME`, by default `workspace/` at the repository root; created on first use."""
    folder = Path(os.environ.get("WORKBENCH_HOME") or ROOT / "workspace").expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def inside(root: Path, *names: str) -> Path:
    """Join names that came from outside onto `root`; the one check that the resolved path stays inside it."""
    root = root.resolve()
    path = root.joinpath(*names).resolve()
    if "\0" in "".join(names) or not path.is_relative_to(root) or path == root:
        raise WorkbenchError(f"a name inside {root.name}/ must not lead out of it; got {'/'.join(names)[:80]!r}.")
    return path


def safe_name(name: str, what: str = "name") -> str:
    """Return `name` if it can be a single file name everywhere, else raise."""
    if not SAFE_NAME.fullmatch(name) or name.endswith("."):
        raise WorkbenchError(
            f"{what} must be 1-120 letters, digits or . _ + @ # - and start with a letter or digit; got {name[:80]!r}."
        )
    return name


def run_folder(run_id: str) -> Path:
    """`<home>/runs/<run_id>`."""
    return inside(home() / "runs", safe_name(run_id, "a run id"))


def jobs_db() -> Path:
    """The queue's SQLite file."""
    return home() / "jobs.db"


def locks() -> Path:
    """Folder of the liveness and singleton locks."""
    folder = home() / "locks"
    folder.mkdir(exist_ok=True)
    return folder


def cache() -> Path:
    """Folder of everything that can be rebuilt: bundled models, bundled data, the catalogue."""
    folder = home() / "cache"
    folder.mkdir(exist_ok=True)
    return folder
