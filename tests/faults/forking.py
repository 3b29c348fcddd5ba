"""The planted daemon of `planted` for many short jobs: its workers are forks of one process that has imported everything.

`forking.py daemon PADDING`. A worker begins within milliseconds; it is a session of its own, a child of the daemon that outlives
it, and in /proc it has a worker's command line (written over PADDING), as one that was started by its command would have.
"""

import ctypes
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.faults import planted
from workbench.core.paths import home
from workbench.jobs import client, daemon, detach, loop, worker
from workbench.jobs.slots import Slot
from workbench.jobs.store import SHORT_KINDS

LENGTH = 600
"""Bytes of the daemon's command line at least, so that a worker's fits in its place."""
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
SLOTS = [*(Slot(f"cpu:{n}", ("train",), None, 1) for n in range(3)), Slot("short", SHORT_KINDS, None, 1)]


def start() -> None:
    """Start the daemon of this home, if none runs."""
    if not daemon.status()["running"]:
        command = [sys.executable, "-P", __file__, "daemon", "-" * LENGTH]
        detach.launch(command, "daemon", lambda: daemon.status()["running"])


class Forked:
    """What the loop asks of a `Popen`."""

    asked: socket.socket
    """To the process that forks."""

    def __init__(self, command: list[str], stdout: Any, env: dict[str, str], **_: Any) -> None:
        socket.send_fds(self.asked, [json.dumps([command[-1], env]).encode()], [stdout.fileno()])
        self.pid, self.returncode = int(self.asked.recv(32)), None

    def poll(self) -> int | None:
        """Its exit status as of `Popen.returncode`; None while it works."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float) -> int | None:
        """Its exit status; the loop asks when it is gone."""
        return self.poll()


def fork_on_request(asked: socket.socket) -> None:
    """Fork a worker for each request, until the daemon is gone."""
    while True:
        text, logs, _, _ = socket.recv_fds(asked, 65536, 1)
        if not text:
            return
        folder, env = json.loads(text)
        reading, writing = os.pipe()
        if (middle := os.fork()) == 0:
            if os.fork() == 0:
                work(folder, env, logs[0], writing)
            os._exit(0)
        os.waitpid(middle, 0)  # now the worker is the daemon's child
        os.close(writing)
        asked.send(os.read(reading, 32))
        for descriptor in (reading, *logs):
            os.close(descriptor)


def work(folder: str, env: dict[str, str], log: int, writing: int) -> None:
    """Be a worker."""
    code = 1
    try:
        os.setsid()
        named(folder)
        for target in (1, 2):
            os.dup2(log, target)
        os.environ.clear()
        os.environ.update(env)
        os.write(writing, str(os.getpid()).encode())
        os.closerange(3, 64)
        os.chdir(home())
        code = worker.main(Path(folder), planted.WIRING)
    finally:
        worker._leave(code)


def named(folder: str) -> None:
    """Have the command line of a worker of this folder."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    first, last = int(fields[45]), int(fields[46])
    head, tail = b"python\0-P\0", f"\0worker\0{folder}\0".encode()
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(first)
        memory.write(head + b"-" * (last - first - len(head) - len(tail)) + tail)


def serve(ready: Any) -> None:
    """Fork who forks before the store is opened, then be the daemon."""
    Forked.asked, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, 1, 0, 0, 0)
    if os.fork() == 0:
        try:
            kept = other.fileno()
            os.closerange(3, kept)
            os.closerange(kept + 1, 64)
            fork_on_request(other)
        finally:
            os._exit(0)
    other.close()
    loop.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": Forked})  # type: ignore[assignment]
    loop.layout = lambda rooms=False: list(SLOTS)
    daemon.serve(ready, ["worker"], (0.5, 1.0, 1.5), record=False)


def main() -> int:
    """Be the daemon."""
    planted.prepare()
    client.ensure_daemon = start
    return detach.detach(home() / "daemon.log", serve)


if __name__ == "__main__":
    sys.exit(main())
