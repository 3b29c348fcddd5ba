"""Opening what a person points at: regular files only, bounded, hashed, decoded; every refusal is one sentence."""

import os
import stat
from pathlib import Path

from workbench.core.durable import file_sha256
from workbench.core.errors import WorkbenchError

MAX_BYTES = 2_000_000_000
MAGIC = {
    b"PK\x03\x04": "a zip archive (an .xlsx is one too)",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"SQLite format 3\0": "a SQLite database",
    b"PAR1": "a parquet file",
    b"%PDF": "a PDF",
    b"\xd0\xcf\x11\xe0": "an old Office file",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x80\x04\x95": "a pickle",
}
BOMS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
"""The longer ones first: that of UTF-32 begins as that of UTF-16."""


def regular(path: Path, what: str = "a data file") -> os.stat_result:
    """The stat of a readable, non-empty regular file of bounded size.

    Raises:
        WorkbenchError: missing, a folder, a pipe or device (never opened, so it cannot hang), empty, too big or unreadable.
    """
    try:
        info = path.stat()
    except (OSError, ValueError) as error:
        problem = f"cannot be read: {getattr(error, 'strerror', error)}"
        reason = "does not exist" if isinstance(error, FileNotFoundError) else problem
        raise WorkbenchError(f"{what} must exist; {str(path)[:200]!r} {reason}.") from None
    if stat.S_ISDIR(info.st_mode):
        raise WorkbenchError(f"{what} must be a file; {path} is a folder (name a file inside it).")
    if not stat.S_ISREG(info.st_mode):
        raise WorkbenchError(f"{what} must be a regular file; {path} is a pipe, socket or device (save its content to a file).")
    if info.st_size == 0:
        raise WorkbenchError(f"{what} must hold rows; {path} is empty.")
    if info.st_size > MAX_BYTES:
        raise WorkbenchError(
            f"{what} must be at most {MAX_BYTES // 10**9} GB; {path} has {info.st_size / 1e9:.1f} GB: take a sample of it."
        )
    if not os.access(path, os.R_OK):
        raise WorkbenchError(f"{what} must be readable; you have no permission to read {path}.")
    return info


def read(path: Path, what: str = "a data file") -> bytes:
    """All bytes of a regular file."""
    regular(path, what)
    try:
        return path.read_bytes()
    except OSError as error:
        raise WorkbenchError(f"{what} must be readable; {path} fails with {error.strerror or error}.") from None


def sha256(path: Path) -> str:
    """Hex sha256 of a regular file's content."""
    regular(path)
    try:
        return file_sha256(path)
    except OSError as error:
        raise WorkbenchError(f"a data file must be readable; {path} fails with {error.strerror or error}.") from None


def text(path: Path) -> str:
    """The file as text with newlines as `\\n`.

    Raises:
        WorkbenchError: another format in disguise, another encoding (names the line and byte and the fix), or NUL bytes.
    """
    raw = read(path)
    for magic, name in MAGIC.items():
        if raw.startswith(magic):
            raise WorkbenchError(f"{path.name} must be a plain text table; it is {name}: export it as UTF-8 csv or jsonl.")
    for bom, name in BOMS.items():
        if raw.startswith(bom):
            raise WorkbenchError(f"{path.name} must be UTF-8 text; it is {name}: save it again as UTF-8.")
    try:
        decoded = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise WorkbenchError(
            f"{path.name} must be UTF-8 text; line {line} has the byte 0x{error.object[error.start]:02x} at position "
            f"{error.start}: save it again as UTF-8 (it may be Latin-1 or Windows-1252)."
        ) from None
    if "\0" in decoded:
        line = decoded.count("\n", 0, decoded.index("\0")) + 1
        raise WorkbenchError(f"{path.name} must be plain text; line {line} holds a NUL byte: remove it or save the file again.")
    decoded = decoded.replace("\r\n", "\n").replace("\r", "\n")
    if not decoded.strip():
        raise WorkbenchError(f"{path.name} must hold rows; it has nothing but blanks.")
    return decoded
