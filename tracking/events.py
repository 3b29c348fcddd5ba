"""events.jsonl of a run folder: one JSON line per event, and what its figures are called in MLflow.

This file is the record while a training runs; MLflow is fed from it. Times are seconds since the epoch.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.core.errors import WorkbenchError
from workbench.core.events import Event

NAME = "events.jsonl"


class EventFile:
    """Appends events; each line is on disk's way with one write, so a reader never sees two halves of different lines."""

    def __init__(self, folder: Path, attempt: int, offset: int = 0) -> None:
        """Open the file, cut to `offset` bytes (where the checkpoint stood that this attempt resumes from)."""
        self._path, self._attempt = folder / NAME, attempt
        with _writable(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            self.offset = min(max(offset, 0), os.fstat(self._file).st_size)
            os.ftruncate(self._file, self.offset)
            if self.offset and os.pread(self._file, 1, self.offset - 1) != b"\n":
                self._write(b"\n")

    def append(self, event: Event) -> None:
        """Write one event.

        Raises:
            WorkbenchError: the disk is full or the folder is gone.
        """
        with _writable(self._path):
            self._write(_line(event.record() | {"attempt": self._attempt}))

    def _write(self, line: bytes) -> None:
        left = line
        try:
            while left:  # what did not fit says why when the rest is tried
                left = left[os.write(self._file, left) :]
        except OSError:
            os.ftruncate(self._file, self.offset)
            raise
        self.offset += len(line)

    def close(self) -> None:
        """Close the file, its events on disk before anything says that the run is over; safe to call again."""
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WorkbenchError(
            f"{path} must be writable; got: {error.strerror or error}; free some space or repair the folder, then retry."
        ) from error


def _line(record: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(record, allow_nan=False, default=_number)
    except ValueError:
        text = json.dumps(_finite(record), allow_nan=False)
    return text.encode() + b"\n"


def _number(value: Any) -> float | str:
    return float(value) if hasattr(value, "__float__") else str(value)


def _finite(value: Any) -> Any:
    """`value` with null for every number that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, str | int | None):
        return value
    plain = _number(value)
    return plain if isinstance(plain, str) or math.isfinite(plain) else None


def read(folder: Path, offset: int = 0, limit: int | None = None) -> Iterator[tuple[dict[str, Any], int]]:
    """The complete lines from `offset` on, as (record, offset after it).

    Args:
        folder: the run folder; a missing file has no lines.
        offset: byte to start at, a line's beginning.
        limit: stop after about this many bytes.
    """
    path = folder / NAME
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        while limit is None or file.tell() - offset < limit:
            line = file.readline()
            if not line.endswith(b"\n"):  # the writer is in the middle of it
                return
            yield _record(line), file.tell()


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:  # a line that a crash cut short, closed by the next attempt
        return {}
    return record if isinstance(record, dict) else {}


def figures(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite figures of one event under their tracking names."""
    values: Mapping[str, Any] = {}
    if record.get("event") == "step":
        names = {"train/loss": "loss", "train/learning_rate": "lr", "perf/step_seconds": "seconds"}
        values = {name: record.get(key) for name, key in names.items()}
    elif record.get("event") == "evaluated":
        prefix = "test" if record.get("split") == "test" else "eval"
        values = {f"{prefix}/{name}": value for name, value in (record.get("metrics") or {}).items()}
    elif record.get("event") == "measured":
        values = record.get("metrics") or {}
    return {k: float(v) for k, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}


def words(record: Mapping[str, Any]) -> dict[str, str]:
    """What one event says in words: the device of an attempt, a measurement's notes."""
    if record.get("event") == "started":
        return {f"env/{key}": str(record.get(key)) for key in ("device", "threads", "attempt")}
    if record.get("event") == "measured":
        return {str(k): str(v) for k, v in (record.get("notes") or {}).items()}
    return {}
