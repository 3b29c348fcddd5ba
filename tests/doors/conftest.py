"""A workspace beside things that an attack would like to reach, the check that it reached none of them, and the counts."""

import os
import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.doors import watching
from tests.doors.watching import WATCH, hashes, is_local, is_sentence
from workbench.core.errors import WorkbenchError

ASKED = {
    "A1": ("other hosts and origins", 12), "A2": ("cross-site requests, frames", 8), "A3": ("paths at doors", 360),
    "A4": ("archives", 20), "A5": ("pickles", 16), "A6": ("code by configuration", 14), "A7": ("planted modules", 8),
    "A8": ("command injection", 12), "A9": ("secrets in what is written", 80), "A10": ("hostile text where it is shown", 180),
    "A11": ("parsers that run away", 6), "A12": ("requests to elsewhere", 10), "A13": ("sizes", 12),
    "A14": ("other users of the machine", 8), "A15": ("MLflow's server", 6), "A16": ("supply chain", 6),
}  # fmt: skip
"""Attack -> (what, how many cases the matrix asks for). A test `test_a<n>_...` is one case unless it records `cases`."""
FEWER = {
    "A15": "no such server is started or embedded, so its five doors do not exist",
    "A16": "hashed lock file and audit are for the day of a release, see SECURITY.md",
}


def _passing(path):
    """Whether a path was a private temporary folder that is gone again, or compiled Python."""
    inside = Path(os.path.abspath(path)).parts[: len(Path(tempfile.gettempdir()).parts) + 1]
    return "__pycache__" in path or (inside[-1].startswith("tmp") and not Path(*inside).exists())


@dataclass
class Yard:
    """The workspace `home`, the current folder `work`, and `outside`, which nothing may touch.

    Attributes:
        canary: a file that exists only if planted code ran.
    """

    home: Path
    work: Path
    outside: Path
    canary: Path

    def attacked(self, attempt):
        """Run an attack under watch; returns (refusal or "", what it returned).

        Only WorkbenchError may come out of it; nothing may be written outside the workspace, run or sent.
        """
        before, said, answer = hashes(self.outside), "", None
        with WATCH.watching():
            try:
                answer = attempt()
            except WorkbenchError as error:
                said = str(error)
        assert not said or is_sentence(said), said
        assert not self.canary.exists(), "the planted code ran"
        assert hashes(self.outside) == before, "something outside was changed"
        allowed = (str(self.home), os.path.join(tempfile.gettempdir(), "workbench-check-"), "/dev/null", "/proc/self")
        strays = [p for p in WATCH.written if not os.path.abspath(p).startswith(allowed) and not _passing(p)]
        assert strays == [], f"written outside the workspace: {strays}"
        assert [a for a in WATCH.connected if not is_local(a)] == []
        assert WATCH.ran == []
        return said, answer

    def refused(self, attempt):
        """The sentence that refused an attack; an AssertionError if it went through."""
        said, answer = self.attacked(attempt)
        assert said, f"it went through: {answer!r:.200}"
        return said


@pytest.fixture
def yard(tmp_path, monkeypatch):
    """A fresh yard, this process standing in its work folder."""
    home, work, outside = (tmp_path / name for name in ("home", "work", "outside"))
    for folder in (home, work, outside):
        folder.mkdir()
    (outside / "secret.csv").write_text("text,label\nsecret,a\n")
    (outside / "keep").mkdir()
    (outside / "keep" / "notes.txt").write_text("precious")
    monkeypatch.setenv("WORKBENCH_HOME", str(home))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(work)
    return Yard(home, work, outside, tmp_path / "canary")


__all__ = ["Yard", "watching", "yard"]


def pytest_terminal_summary(terminalreporter):
    """Cases per attack: run, and asked for."""
    run, through = Counter(), Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            found = re.search(r"::test_a(\d+)_", report.nodeid)
            if found and report.when == "call":
                run[f"A{found[1]}"] += dict(report.user_properties).get("cases", 1)
                through[f"A{found[1]}"] += outcome == "failed"
    for name in (name for name in ASKED if run[name]):
        what, asked = ASKED[name]
        why = f" ({FEWER[name]})" if name in FEWER and run[name] < asked else ""
        terminalreporter.write_line(f"{name:4} {what:32} {run[name]:4} cases of {asked:3} asked, {through[name]} broken{why}")
    if run:
        terminalreporter.write_line(f"{sum(run.values())} attacks, {sum(through.values())} tests with a door that is open")
