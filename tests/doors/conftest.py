"""A workspace beside things that an attack would like to reach, and the check that it reached none of them."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.doors import watching
from tests.doors.watching import WATCH, hashes, is_local, is_sentence
from workbench.core.errors import WorkbenchError


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
