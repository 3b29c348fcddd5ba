"""F3 and F4: one commit path at a time in a forked child under strace, which kills it or makes a system call fail.

A path is prepared once, copied for each case, and run in a fork of this process, so that nothing is imported anew; strace is
attached to the waiting child and counts from there. Which calls there are is asked of a run that nothing disturbs.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults import invariants
from workbench.jobs import failures

STRACE = shutil.which("strace")
MISSING = "strace is not installed (apt-get install strace): calls of the kernel cannot be made to fail"
KILLED = -9
POWER = "the power went"
"""Stands for what a child said, where it could not clean up although it had ended well."""
CALLS = ("openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "unlink", "unlinkat", "rmdir", "mkdir", "ftruncate")
NEED_SPACE = ("openat", "write", "pwrite64", "fsync", "rename", "mkdir", "ftruncate")


class Way(NamedTuple):
    """One commit path.

    Attributes:
        prepare: fills the empty home that every case starts from.
        open: what the child does before strace counts, e.g. opening the store; gives what `act` gets.
        act: the path itself; its return is the exit code (None = 0).
        after: brings the home to rest after the child has ended with this code; the broken promises.
    """

    prepare: Callable[[Path], None]
    open: Callable[[Path], Any]
    act: Callable[[Path, Any], int | None]
    after: Callable[[Path, int, str], list[str]]


class Ended(NamedTuple):
    """How a child ended: its code (-9 = killed), the sentence of its error, the lines of strace."""

    code: int
    said: str
    lines: list[str]


def works() -> bool:
    """Whether strace may attach to a child of ours here."""
    return STRACE is not None and run(lambda: None, lambda _: 0, ["-e", "trace=none"]).code == 0


def run(opened: Callable[[], Any], act: Callable[[Any], int | None], options: list[str]) -> Ended:
    """Fork; the child opens, waits for strace, then acts."""
    begin, go = os.pipe()
    answer, telling = os.pipe()
    log = Path(tempfile.gettempdir(), f"strace-{os.getpid()}.log")
    child = os.fork()
    if child == 0:
        _child(opened, act, begin, telling, answer)
    os.close(telling)
    os.read(answer, 1)  # it has opened
    command = [STRACE or "strace", "-p", str(child), "-o", str(log), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as tracer:
        first = tracer.stderr.readline() if tracer.stderr else b""
        os.write(go, b"x")
        with open(answer, encoding="utf-8") as file:
            said = file.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for descriptor in (begin, go):
        os.close(descriptor)
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    assert b"attached" in first, first
    return Ended(code, said, lines)


def _child(opened: Callable[[], Any], act: Callable[[Any], int | None], begin: int, telling: int, answer: int) -> None:
    code = 1
    try:
        os.close(answer)
        nothing = os.open(os.devnull, os.O_WRONLY)
        for number in (1, 2):
            os.dup2(nothing, number)
        found = opened()
        os.write(telling, b".")
        os.read(begin, 1)
        code = act(found) or 0
    except BaseException as error:
        os.write(telling, failures.sentence(error).encode())
    finally:
        os._exit(code)


def counted(way: Way, home: Path, calls: tuple[str, ...]) -> Counter:
    """How often an undisturbed run makes each call; a call beyond that is never reached."""
    found = run(lambda: way.open(home), lambda value: way.act(home, value), ["-e", f"trace={','.join(calls)}"])
    assert found.code == 0, found.said
    return Counter(match[1] for line in found.lines if (match := re.match(r"(\w+)\(", line)))


def places(counts: Counter) -> Iterator[tuple[str, int]]:
    """Every (call, k)."""
    return ((name, k) for name in CALLS for k in range(1, counts[name] + 1))


def inject(way: Way, home: Path, call: str, k: int, what: str) -> Ended:
    """Run the path with one fault: what is `signal=SIGKILL` or `error=ENOSPC`."""
    options = ["-e", f"trace={call}", "-e", f"inject={call}:{what}:when={k}"]
    return run(lambda: way.open(home), lambda value: way.act(home, value), options)


def every(way: Way, home: Path, what: str, step: int = 1, first: int = 0) -> tuple[int, list[str]]:
    """Inject at every k (or each `step`-th) of every call: (how many faults, the broken promises)."""
    stored = home.with_name("prepared")
    way.prepare(home)
    _copy(home, stored)
    calls = CALLS if "SIGKILL" in what else NEED_SPACE
    all_places = list(places(counted(way, home, calls)))[first::step]
    broken = []
    for call, k in all_places:
        _copy(stored, home)
        ended = inject(way, home, call, k, what)
        found = way.after(home, ended.code, ended.said)
        if ended.code not in (0, KILLED) and ended.said:
            found += invariants.i10_sentence(ended.said)
        if "SIGKILL" in what and ended.code != KILLED:
            found.append(f"was not reached (ended with {ended.code}: {ended.said})")
        broken += [f"{what} at {call} {k}: {text}" for text in found]
    return len(all_places), broken


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
