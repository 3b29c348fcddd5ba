"""Files that go through the screens: uploads in, exported folders out as zip, spec files."""

import csv
import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from workbench.core import paths, safe_yaml
from workbench.core.errors import WorkbenchError
from workbench.core.spec import parse_spec
from workbench.jobs import client, wire

MAX_ZIP = 2_000_000_000  # bytes that are packed in memory


def upload(name: str, content: bytes) -> Path:
    """Keep an uploaded file under `<home>/uploads/<sha256>/<safe name>`; the same content twice is stored once.

    Args:
        name: what the browser called it; anything that leads elsewhere is dropped.
        content: its bytes.

    Raises:
        WorkbenchError: the file is empty.
    """
    if not content:
        raise WorkbenchError(f"an uploaded file must hold something; {name[:80]!r} is empty.")
    bare = PurePosixPath(name.replace("\\", "/")).name
    safe = re.sub(r"[^A-Za-z0-9._+-]+", "-", bare).strip("-._")[-100:] or "data"
    folder = paths.inside(paths.home() / "uploads", hashlib.sha256(content).hexdigest())
    target = paths.inside(folder, paths.safe_name(safe, "a file name"))
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.part")
        temporary.write_bytes(content)
        temporary.replace(target)
    return target


def new_place(kind: str, name: str, suffix: str = "") -> Path:
    """A path below `<home>/<kind>/` that does not exist yet: `name`, `name-2`, ...; its folder is made."""
    folder = paths.home() / paths.safe_name(kind, "a folder")
    folder.mkdir(exist_ok=True)
    bare = re.sub(r"[^A-Za-z0-9._+@#-]+", "-", name).strip("-._+@#")[:80] or kind
    numbers = (f"{bare}{'' if n == 1 else f'-{n}'}{suffix}" for n in range(1, 10_000))
    return next(path for path in (folder / one for one in numbers) if not path.exists())


def exports(limit: int = 20) -> list[dict[str, Any]]:
    """Exports and verifications, newest first: {job, kind, name, state, reason, folder, format, result}."""
    rows = [row for row in reversed(client.jobs()) if row["kind"] in ("export", "verify")]
    return [_export(row) for row in rows[:limit]]


def _export(row: Mapping[str, Any]) -> dict[str, Any]:
    request = wire.read_json(paths.run_folder(row["run_id"]) / "request.json") or {}
    result = (client.verdict(row["job"]) or {}).get("result") or {}
    folder = str(request.get("to") or request.get("folder") or "")
    shown = {name: row[name] for name in ("job", "kind", "name", "state", "reason", "ended")}
    there = bool(folder) and Path(folder).is_dir()
    return {**shown, "format": request.get("format") or result.get("format"), "folder": folder, "there": there, "result": result}


def zipped(folder: str | Path) -> bytes:
    """A folder as a zip file; links are left out.

    Raises:
        WorkbenchError: it is gone, or larger than 2 GB.
    """
    top = Path(folder)
    files = sorted(p for p in top.rglob("*") if p.is_file() and not p.is_symlink()) if top.is_dir() else []
    if not files:
        raise WorkbenchError(f"{top} must be a folder that holds files; it is gone or empty: export again.")
    if sum(p.stat().st_size for p in files) > MAX_ZIP:
        raise WorkbenchError(f"a folder above 2 GB is not packed here; copy {top} instead.")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, f"{top.name}/{path.relative_to(top)}")
    return packed.getvalue()


def written(path: str | Path) -> bytes:
    """The content of a table that `predict` wrote.

    Raises:
        WorkbenchError: it is gone.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise WorkbenchError(f"{path} must hold predictions; it cannot be read ({error.strerror}): predict again.") from None


def head(path: str | Path, rows: int = 50) -> list[dict[str, Any]]:
    """The first rows of such a table."""
    with open(path, encoding="utf-8", newline="") as file:
        return [dict(row) for row, _ in zip(csv.DictReader(file), range(rows))]


def spec_text(spec: Mapping[str, Any]) -> str:
    """The YAML file of a spec as the form wrote it.

    Raises:
        WorkbenchError: it is no spec; one sentence about the first problem.
    """
    parse_spec(spec)
    return safe_yaml.dumps(dict(spec))
