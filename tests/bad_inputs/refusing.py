"""What must hold of every bad input at the command line, and of the odd ones that are taken: one checker for all matrices."""

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.doors.watching import WATCH, is_local, is_sentence
from workbench.cli import main

SECONDS = 2.0
"""Of this process's own time: what others on the machine do is not measured."""
Outcome = Literal["refused", "warned", "accepted"]


@dataclass(frozen=True)
class Case:
    """One entry of a matrix.

    Attributes:
        put: what is fed; each matrix says how.
        words: a pattern of the sentence that refuses or warns; of what is taken without a word, of the answer.
        outcome: what comes of it.
    """

    put: Any
    words: str
    outcome: Outcome = "refused"


def warned(put: Any, words: str) -> Case:
    """Taken, and somebody says a sentence about it."""
    return Case(put, words, "warned")


def accepted(put: Any, words: str = "") -> Case:
    """Taken without a word: it is odd, not wrong."""
    return Case(put, words, "accepted")


def by_id(groups: dict[str, dict[str, Case]]) -> dict[str, Case]:
    """`group: name` -> case; no two may share an id."""
    return {f"{group}: {name}": case for group, cases in groups.items() for name, case in cases.items()}


def counted(*groups: dict[str, Case]) -> dict[str, int]:
    """How many cases of a matrix end how."""
    cases = [case for group in groups for case in group.values()]
    ends = [case.outcome for case in cases]
    return {"all": len(cases), **{name: ends.count(name) for name in ("refused", "warned", "accepted")}}


def listing(*tops: Path) -> dict[str, tuple[int, int, int]]:
    """Path -> (kind and rights, size, time of change) of everything below some folders, but the caches of the home."""
    paths = [path for top in tops for path in top.rglob("*") if not any(path.is_relative_to(t / "cache") for t in tops)]
    return {str(p): (s.st_mode, s.st_size, s.st_mtime_ns) for p in paths for s in [p.lstat()] if not p.is_dir()} | {
        str(p): (0, 0, 0) for p in paths if p.is_dir() and not p.is_symlink()
    }


class Terminal:
    """The command line in this process, standing in the folder `work`, with a home whose caches are warm."""

    def __init__(self, home: Path, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self.work, self._capsys = home, work, capsys

    def call(self, *arguments: str) -> tuple[int, str, str, float]:
        """(exit code, stdout, stderr, this process's seconds); nothing may be run or sent to elsewhere."""
        self._capsys.readouterr()
        start = time.process_time()
        with WATCH.watching():
            code = main(arguments)
        seconds = time.process_time() - start
        assert WATCH.ran == []
        assert [address for address in WATCH.connected if not is_local(address)] == []
        out, err = self._capsys.readouterr()
        return code, out, err, seconds

    def refused(self, *arguments: str, words: str, code: int = 2) -> str:
        """The one sentence of a refusal that leaves everything as it was."""
        before = listing(self.home, self.work)
        ended, out, err, seconds = self.call(*arguments)
        assert ended == code, err + out[:500]
        assert err.endswith("\n")
        said = err[:-1]
        assert is_sentence(said), err
        assert re.search(words, said), said
        assert out == "" or arguments[0] == "plan", out
        assert listing(self.home, self.work) == before
        assert seconds < SECONDS
        return said

    def taken(self, *arguments: str) -> dict[str, Any]:
        """The answer to what is no mistake."""
        code, out, err, seconds = self.call(*arguments, "--json")
        assert code == 0, err
        assert err == ""
        assert seconds < SECONDS
        return json.loads(out)


def planned(terminal: Terminal, case: Case, spec: str = "spec.yaml") -> None:
    """A case at the doors of a spec: refused alike by the plan and by a run, or taken as it says."""
    if case.outcome == "refused":
        said = [terminal.refused(command, spec, words=case.words) for command in ("plan", "run")]
        assert said[0] == said[1]
        return
    plan = terminal.taken("plan", spec)
    seen = terminal.taken("data", spec)
    findings = [one for entry in seen["entries"] for one in entry["doctor"]]
    suggested = [seen[name]["sentence"] for name in ("suggestion", "unknown") if seen[name]]
    spoken = [*plan["warnings"], *plan["notes"], *suggested, *(one["sentence"] for one in findings)]
    if case.outcome == "warned":
        assert any(re.search(case.words, sentence) for sentence in spoken), spoken
    else:
        assert spoken == []
        assert re.search(case.words, json.dumps([plan, seen]))


def never(*_: object) -> None:
    """Stands for the queue, which a bad input must not reach."""
    raise AssertionError("a bad input reached the queue")
