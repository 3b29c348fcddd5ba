"""F4: what a power cut leaves. The system calls of a path are recorded and replayed on a model of a disk that forgets.

A disk keeps, of each file, what was last synced, and of each folder, the names that were last synced: the strictest reading of
POSIX. Three disks: `lost` forgets everything that was not synced; `empty` keeps every name but no unsynced content (a journal
that writes names first); `torn` keeps every name and the first half of unsynced content.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.syscalls import Way, run

RECORDED = ("openat", "write", "writev", "pwrite64", "lseek", "ftruncate", "fallocate", "rename", "renameat", "renameat2", "link",
            "linkat", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "fsync", "fdatasync", "close", "dup", "dup2", "sendfile",
            "copy_file_range")  # fmt: skip
UNKNOWN = ("writev", "fallocate", "link", "linkat", "sendfile", "copy_file_range")
"""Calls that the model does not know: a path that makes one must not pass as tested."""
DISKS = ("lost", "empty", "torn")
LINE = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+)")
ARGUMENT = re.compile(r'"(?:\\x[0-9a-f]{2})*"|[^,\s][^,]*')


@dataclass
class Node:
    """A file or a folder: what programs see, and what is on the disk."""

    folder: bool
    data: bytes = b""
    synced: bytes = b""
    names: dict[str, "Node"] = field(default_factory=dict)
    synced_names: dict[str, "Node"] = field(default_factory=dict)


@dataclass
class Open:
    """An open file: where it writes next."""

    node: Node
    at: int = 0
    append: bool = False


class Disk:
    """A model of everything below one folder; calls elsewhere are ignored."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.top = self._read(root)
        self.open: dict[int, Open] = {}

    def _read(self, path: Path) -> Node:
        if path.is_dir():
            names = {p.name: self._read(p) for p in path.iterdir()}
            return Node(True, names=names, synced_names=dict(names))
        data = path.read_bytes()
        return Node(False, data, data)

    def _place(self, text: str, folder: str = "AT_FDCWD") -> tuple[Node, str] | None:
        """(the folder a path's last part is in, that part); None when it is elsewhere or nowhere."""
        path = Path(bytes.fromhex(text.strip('"').replace("\\x", "")).decode())
        node = self.top
        if path.is_absolute():
            if path == self.root or not path.is_relative_to(self.root):
                return (Node(True, names={"": self.top}), "") if path == self.root else None
            parts = path.relative_to(self.root).parts
        elif folder.isdigit() and int(folder) in self.open:
            node, parts = self.open[int(folder)].node, path.parts
        else:
            return None
        for part in parts[:-1]:
            if part not in node.names:
                return None
            node = node.names[part]
        return node, parts[-1] if parts else ""

    def apply(self, call: str, words: list[str], result: int) -> None:
        """One successful call."""
        do = getattr(self, f"_{call}", None)
        if do is not None and result >= 0:
            do(words, result)

    def _openat(self, words: list[str], result: int) -> None:
        self.open.pop(result, None)
        place = self._place(words[1], words[0])
        if place is None:
            return
        folder, name = place
        if name not in folder.names:
            if "O_CREAT" not in words[2]:
                return
            folder.names[name] = Node(False)
        node = folder.names[name]
        if "O_TRUNC" in words[2]:
            node.data = b""
        self.open[result] = Open(node, 0, "O_APPEND" in words[2])

    def _close(self, words: list[str], result: int) -> None:
        self.open.pop(int(words[0]), None)

    def _dup(self, words: list[str], result: int) -> None:
        if int(words[0]) in self.open:
            self.open[result] = self.open[int(words[0])]

    _dup2 = _dup

    def _put(self, node: Node, at: int, data: bytes) -> None:
        node.data = node.data[:at].ljust(at, b"\0") + data + node.data[at + len(data) :]

    def _write(self, words: list[str], result: int) -> None:
        if (file := self.open.get(int(words[0]))) is not None:
            file.at = len(file.node.data) if file.append else file.at
            self._put(file.node, file.at, _bytes(words[1])[:result])
            file.at += result

    def _pwrite64(self, words: list[str], result: int) -> None:
        if (file := self.open.get(int(words[0]))) is not None:
            self._put(file.node, int(words[3]), _bytes(words[1])[:result])

    def _lseek(self, words: list[str], result: int) -> None:
        if (file := self.open.get(int(words[0]))) is not None:
            file.at = result

    def _ftruncate(self, words: list[str], result: int) -> None:
        if (file := self.open.get(int(words[0]))) is not None:
            file.node.data = file.node.data[: int(words[1])].ljust(int(words[1]), b"\0")

    def _fsync(self, words: list[str], result: int) -> None:
        if (file := self.open.get(int(words[0]))) is not None:
            file.node.synced, file.node.synced_names = file.node.data, dict(file.node.names)

    _fdatasync = _fsync

    def _rename(self, words: list[str], result: int) -> None:
        self._move(self._place(words[0]), self._place(words[1]))

    def _renameat(self, words: list[str], result: int) -> None:
        self._move(self._place(words[1], words[0]), self._place(words[3], words[2]))

    _renameat2 = _renameat

    def _move(self, old: tuple[Node, str] | None, new: tuple[Node, str] | None) -> None:
        if old is not None and new is not None:
            new[0].names[new[1]] = old[0].names.pop(old[1])

    def _unlink(self, words: list[str], result: int) -> None:
        if (place := self._place(words[0])) is not None:
            place[0].names.pop(place[1])

    _rmdir = _unlink

    def _unlinkat(self, words: list[str], result: int) -> None:
        if (place := self._place(words[1], words[0])) is not None:
            place[0].names.pop(place[1])

    def _mkdir(self, words: list[str], result: int) -> None:
        if (place := self._place(words[0])) is not None:
            place[0].names[place[1]] = Node(True)

    def _mkdirat(self, words: list[str], result: int) -> None:
        if (place := self._place(words[1], words[0])) is not None:
            place[0].names[place[1]] = Node(True)

    def write(self, kind: str, target: Path) -> None:
        """What is there after the power came back."""
        target.mkdir()
        self._out(self.top, kind, target)

    def _out(self, node: Node, kind: str, target: Path) -> None:
        for name, child in (node.synced_names if kind == "lost" else node.names).items():
            path = target / name
            if child.folder:
                path.mkdir()
                self._out(child, kind, path)
            elif kind == "torn" and child.data != child.synced:
                half = len(child.data) // 2
                path.write_bytes(child.data[:half] + child.synced[half:])
            else:
                path.write_bytes(child.synced)


def _bytes(word: str) -> bytes:
    return bytes.fromhex(word.strip('"').replace("\\x", ""))


def record(way: Way, home: Path) -> list[tuple[str, list[str], int]]:
    """The calls of an undisturbed run: (call, arguments, result)."""
    options = ["-xx", "-s", "10000000", "-e", f"trace={','.join(RECORDED)}"]
    ended = run(lambda: way.open(home), lambda value: way.act(home, value), options)
    assert ended.code == 0, ended.said
    found = [(m[1], ARGUMENT.findall(m[2]), int(m[3])) for line in ended.lines if (m := LINE.match(line))]
    strange = {call for call, _, result in found if call in UNKNOWN and result >= 0}
    assert not strange, f"the model of a disk does not know {strange}"
    return found


def moments(calls: list[tuple[str, list[str], int]]) -> Iterator[int]:
    """How many calls are done at each moment that is tried: before and after every sync, after every rename, and at the end."""
    tried = {0, len(calls)}
    for n, (call, _, _) in enumerate(calls):
        tried |= {n, n + 1} if call in ("fsync", "fdatasync") else {n + 1} if call.startswith(("rename", "unlink")) else set()
    return iter(sorted(tried))


def cut(calls: list[tuple[str, list[str], int]], root: Path, home: Path, at: int, kind: str) -> None:
    """Put into `home` what a power cut after `at` calls leaves of `root`, which programs saw under the name `home`."""
    disk = Disk(root)
    disk.root = home
    for call, words, result in calls[:at]:
        disk.apply(call, words, result)
    disk.write(kind, home)
