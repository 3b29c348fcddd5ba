"""Whether the kernel has killed processes because memory ran out, as far as it says so without privileges."""

import re
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
Kills = dict[str, int]
"""`group` (processes under the same limit as ours) and `machine` -> kills so far; what cannot be read is left out."""


def _group(own: Path) -> list[Path]:
    """Where the counter of our own control group may lie, version 2 before version 1; a container sees its group as the root."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in sorted(lines):  # `0::/path` is version 2
        number, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if number == "0" or "memory" in kinds.split(","):
            root, file = (ROOT, "memory.events") if number == "0" else (ROOT / "memory", "memory.oom_control")
            found += [root / path.strip("/") / file, root / file]
    return found


def _count(path: Path) -> int | None:
    try:
        found = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def kills(own: Path = Path("/proc/self/cgroup"), machine: Path = Path("/proc/vmstat")) -> Kills:
    """The counters now; compare two of them with `between`."""
    group = next((count for path in _group(own) if (count := _count(path)) is not None), None)
    counts = {"group": group, "machine": _count(machine)}
    return {name: count for name, count in counts.items() if count is not None}


def between(before: Kills, after: Kills) -> str:
    """`group` or `machine`, where a kill was counted meanwhile; empty where none was, or where nobody knows."""
    grown = [name for name in ("group", "machine") if name in before and after.get(name, 0) > before[name]]
    return "group" if "group" in grown else "machine" if grown and "group" not in after else ""
