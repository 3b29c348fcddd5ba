"""Locks that the kernel drops the instant their owner dies (Linux open-file-description locks).

A POSIX record lock is lost when its owner opens and closes the file once; `flock` and OFD locks are kept by forked
children. So: OFD locks, whose descriptors are closed in every forked child and, being close-on-exec, in every program
that is started. Standard library only: a worker takes its lock before it imports anything heavy.
"""

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FLOCK = struct.Struct("@hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid of Linux's struct flock on 64-bit machines
_held: set[int] = set()


def _close_in_child() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


def _flock(kind: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0)  # the whole file; l_pid must be 0 for OFD locks


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    _held.add(descriptor)
    return descriptor


def _close(descriptor: int) -> None:
    if descriptor in _held:  # a forked child has closed its copy already
        _held.discard(descriptor)
        os.close(descriptor)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the exclusive lock `path` for the body, waiting for it as long as needed; not re-entrant.

    Threads exclude each other too. The file is created on first use and stays.
    """
    descriptor = _open(Path(path))
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, _flock(fcntl.F_WRLCK))
        yield
    finally:
        _close(descriptor)


def is_held(path: Path) -> bool:
    """Whether somebody (this process included) holds the lock `path`; looks without taking it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK))
    finally:
        os.close(descriptor)
    return _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK


class Alive:
    """A lock that says "this process lives": taken once, held until the process ends or `release`."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._descriptor: int | None = None

    def take(self, wait: float = 0.0) -> bool:
        """Try to take the lock, for at most `wait` seconds; False if somebody else keeps it."""
        deadline = time.monotonic() + wait
        while not self._try():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def _try(self) -> bool:
        descriptor = _open(self.path)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK))
        except BlockingIOError:
            _close(descriptor)
            return False
        except BaseException:
            _close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def intact(self) -> bool:
        """Whether the file we hold is still the one at our path (False once the home was deleted or replaced)."""
        if self._descriptor is None or self._descriptor not in _held:
            return False
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(self._descriptor))

    def release(self) -> None:
        """Give the lock back; does nothing when it is not held."""
        if self._descriptor is not None:
            _close(self._descriptor)
            self._descriptor = None


def run_lock(home: Path, run_id: str) -> Path:
    """The liveness lock of a run's worker."""
    return home / "locks" / f"run-{run_id}.lock"
