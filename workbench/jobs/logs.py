"""A run's train.log: what a worker prints must not fill the disk."""

import contextlib
from pathlib import Path

MOST = 20_000_000
KEPT = 1_000_000


def bound(log: Path, most: int = MOST, kept: int = KEPT) -> None:
    """Shorten a log of more than `most` bytes to its first and last `kept`, with a line between that says so.

    Its worker may go on appending meanwhile; what it writes in this very moment may be left out too.
    """
    with contextlib.suppress(OSError):  # it is gone, or the disk is full: no job may suffer for its log
        size = log.stat().st_size
        if size > most:
            _shorten(log, size, kept)


def _shorten(log: Path, size: int, kept: int) -> None:
    with open(log, "r+b") as file:
        head = file.read(kept)
        file.seek(size - kept)
        rest = file.read(2 * kept)
        file.truncate(kept)
    rest = rest[rest.find(b"\n") + 1 :]
    left_out = f"... {size - len(head) - len(rest)} bytes are left out here: a long log keeps its beginning and its end ...\n"
    with open(log, "ab") as file:
        file.write((b"" if head.endswith(b"\n") else b"\n") + left_out.encode() + rest)
