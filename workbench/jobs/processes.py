"""Who is who among processes: identity by (pid, start time), and what is left of a process group. Standard library only."""

import os
import signal
import time
from pathlib import Path


def _stat(pid: int | str) -> list[bytes] | None:
    try:
        raw = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return raw.rpartition(b")")[2].split()  # state, ppid, pgrp, session, ...; start time is the 20th


def created(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot (no clock change can move it); None for dead or zombie."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in (b"Z", b"X") else int(fields[19])


def boot() -> str:
    """Names the time since the machine started; empty where the kernel does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def alive(pid: int | None, start: int | None) -> bool:
    """Whether the process we once knew as (pid, start time) still runs; a recycled pid does not count."""
    return pid is not None and start is not None and created(pid) == start


def members(group: int, since: int) -> list[int]:
    """Living processes of a session and process group that began at `since` or later.

    The number of a dead leader cannot be given out again while its group has members, so if a process with that
    number and another start time exists, the group is not ours any more.
    """
    leader = _stat(group)
    if leader is not None and int(leader[19]) != since:
        return []
    found = []
    for entry in os.listdir("/proc"):
        fields = _stat(entry) if entry.isdigit() else None
        if fields is None or fields[0] in (b"Z", b"X") or int(fields[2]) != group or int(fields[3]) != group:
            continue
        if int(fields[19]) >= since:
            found.append(int(entry))
    return found


def signal_group(group: int | None, since: int | None, number: int) -> bool:
    """Send a signal to a worker's process group; False when nothing of it is left."""
    if group is None or since is None or not members(group, since):
        return False
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def kill_rest(group: int | None, since: int | None, patience: float = 3.0) -> None:
    """Kill whatever a worker left behind and wait until it is gone, at most `patience` seconds."""
    deadline = time.monotonic() + patience
    while signal_group(group, since, signal.SIGKILL) and time.monotonic() < deadline:
        time.sleep(0.02)
