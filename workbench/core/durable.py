"""Folders that appear whole or not at all, also after `kill -9` and after a power cut. Standard library only.

A writer works in `.<name>.<pid>.<hex>.tmp` beside the target, syncs every file, then renames and syncs the parent; an older
folder stands aside as `.<name>.<pid>.<hex>.old` meanwhile. The pid tells whose it was when its writer is gone.
"""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

_HALF = re.compile(r"\.(?P<name>.+?)\.(?P<pid>\d+)(\.[0-9a-f]{8})?\.(?P<kind>tmp|old)")


def sync(path: Path) -> None:
    """fsync one file or folder."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(folder: Path) -> None:
    """Create a folder and those above it that are missing; what was created survives a power cut."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync(path.parent)


def write_whole(folder: Path, fill: Callable[[Path], Any]) -> None:
    """Create `folder` by calling fill(temporary folder); it replaces an older one only when complete and on disk."""
    make_folder(folder.parent)
    sweep(folder.parent, folder.name)
    work, old = _beside(folder, "tmp"), _beside(folder, "old")
    try:
        work.mkdir()
        fill(work)
        for path in [*work.rglob("*"), work]:
            sync(path)
        if folder.exists():
            folder.rename(old)
        work.rename(folder)
        sync(folder.parent)
        wipe(old)
    except BaseException:
        wipe(work)
        if old.exists() and not folder.exists():
            old.rename(folder)
        wipe(old)
        raise


def remove(folder: Path) -> None:
    """Delete a folder so that readers see all of it or none; it may be missing.

    Raises:
        OSError: it is still there, whole.
    """
    aside = _beside(folder, "tmp")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(aside)
        wipe(aside)


def wipe(folder: Path) -> None:
    """Delete as much of a folder as can be deleted; tried twice, because one call that fails spares all that is below it."""
    for _ in range(2):
        shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path, name: str | None = None, everything: bool = False) -> None:
    """Remove what writers that were killed left in `parent`; an older folder that one had moved aside comes back.

    Args:
        parent: where to look; may be missing.
        name: only what stood for this target.
        everything: also what a living process may still write; for a folder whose writers are known to be dead.
    """
    for path in sorted(parent.iterdir()) if parent.is_dir() else ():
        half = _HALF.fullmatch(path.name)
        if half is None or name not in (None, half["name"]) or not (everything or _gone(int(half["pid"]))):
            continue
        if half["kind"] == "old" and not (parent / half["name"]).exists():
            path.rename(parent / half["name"])
        elif path.is_dir() and not path.is_symlink():
            wipe(path)
        else:
            path.unlink(missing_ok=True)


def _beside(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}.{kind}")


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True
