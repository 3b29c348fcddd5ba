"""Where things lie: everything the workbench writes is under one home folder."""

import os
import re
import stat
from pathlib import Path

from workbench.core.errors import WorkbenchError

ROOT = Path(__file__).resolve().parents[2]
LONGEST_PATH, LONGEST_PART = 4000, 255  # bytes
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@#-]{0,119}")


def home() -> Path:
    """The folder named by `WORKBENCH_HOME`, by default `workspace/` at the repository root; made on first use, for its owner.

    Raises:
        WorkbenchError: anybody may write there, so that what lies in it (queue, adapters, sockets) could be anybody's.
    """
    folder = Path(os.environ.get("WORKBENCH_HOME") or ROOT / "workspace").expanduser().resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & stat.S_IWOTH:
        raise WorkbenchError(f"WORKBENCH_HOME must not be writable by everyone; {folder} is: run chmod o-w on it.")
    return folder


def keep_others_out() -> None:
    """What this process makes from now on is writable by its owner alone, whatever umask it was started with."""
    os.umask(os.umask(0o022) | 0o022)


def inside(root: Path, *names: str) -> Path:
    """Join names that came from outside onto `root`; the one check that the resolved path stays inside it."""
    root = root.resolve()
    path = None if "\0" in "".join(names) else named(root.joinpath(*names))
    if path is None or not path.is_relative_to(root) or path == root:
        raise WorkbenchError(f"a name inside {root.name}/ must not lead out of it; got {'/'.join(names)[:80]!r}.")
    return path


def named(given: str | Path, what: str = "a path") -> Path:
    """The absolute path that a person named; links are followed.

    Raises:
        WorkbenchError: no file can have it: a NUL, a part above 255 bytes, no such home folder.
    """
    text = str(given)
    try:
        if len(os.fsencode(text)) > LONGEST_PATH or max(map(len, os.fsencode(text).split(b"/"))) > LONGEST_PART:
            raise ValueError("it is too long")
        return Path(text).expanduser().resolve()
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise WorkbenchError(f"{what} must be a path that can exist; {text[:80]!r} cannot: {reason}.") from None


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
