"""The grid of F1 and F2: which process meets which signal at which place, and how the home is brought to rest again."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.faults import invariants, planted
from tests.jobs.living import make_spec, until
from workbench.core import failpoints
from workbench.jobs import client, daemon, detach, processes, store

PLANTED = [sys.executable, "-P", planted.__file__]
PATIENCE = 60.0
"""Seconds until a wait counts as broken; a good case takes none of them."""

CLIENT = ("submit.written", "submit.acknowledged", "cancel.written", "pause.written")
DAEMON = ("queued", "claimed", "forked", "ended.before", "ended.committed")
TRAINING = (
    "lock.before", "lock.after", "began", "loaded", "step@3", "event.written@2", "evaluation", "checkpoint.written",
    "checkpoint.written@2", "checkpoint.renamed", "checkpoint.renamed@2", "adapter.written", "verdict.before", "verdict.written",
)  # fmt: skip
WISHES = ("wish.seen/pause", "wish.seen/cancel")
EXPORT = ("lock.before/export", "began/export", "export.written/export", "export.renamed/export", "verdict.before/export")


class Case(NamedTuple):
    """One fault.

    Attributes:
        place: of `failpoints`, `@n` for the n-th time, `/pause|cancel|export` for what the job is doing.
        action: the signal at that place; STOP is followed by CONT.
        also: who is killed while the process stands there (`action` is STOP then): daemon, both (the worker too) or waiter.
    """

    place: str
    action: str
    also: str = ""

    def __str__(self) -> str:
        return f"{self.place}-{self.action}{'-' + self.also if self.also else ''}"


F1 = [
    *(Case(place, "KILL") for place in (*CLIENT, *DAEMON, *TRAINING, *WISHES, *EXPORT)),
    *(Case(place, "STOP", "daemon") for place in (*TRAINING, *WISHES, *EXPORT)),
    *(Case(place, "STOP", "both") for place in (*TRAINING, *WISHES, *EXPORT)),
    *(Case(place, "STOP", "waiter") for place in (*DAEMON[:3], "lock.before", "step@3", "checkpoint.written", "verdict.before")),
]
SHAKES = ("TERM", "INT", "STOP", "SEGV", "ABRT")
_PLACES = (*CLIENT, *DAEMON, *TRAINING, *WISHES, *EXPORT)
F2 = [Case(place, SHAKES[(n + shift) % 5]) for n, place in enumerate(_PLACES) for shift in (0, 2)]
"""Every place with two of the five signals, so that each signal meets each kind of process many times."""


def start(home: Path, failpoint: str = "") -> int:
    """Start a planted daemon in this home; its workers see the failpoint too. Returns its pid."""
    subprocess.run([*PLANTED, "daemon"], env=_environment(home, failpoint), check=True, capture_output=True, timeout=PATIENCE)
    return daemon.status()["pid"]


def ask(home: Path, *words: str, failpoint: str = "") -> subprocess.Popen:
    """A client process."""
    env = _environment(home, failpoint)
    return subprocess.Popen([*PLANTED, "client", *words], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _environment(home: Path, failpoint: str) -> dict[str, str]:
    plain = {k: v for k, v in detach.environment().items() if k != failpoints.VARIABLE}
    return {**plain, "WORKBENCH_HOME": str(home), **({failpoints.VARIABLE: failpoint} if failpoint else {})}


def reference(home: Path) -> None:
    """Make the home that every case starts from: one finished run, uninterrupted, and no daemon."""
    start(home)
    client.submit([make_spec("reference")])
    until(lambda: rows(home)["reference"]["state"] == "finished", PATIENCE)
    daemon.stop()
    for name in ("daemon.log", "daemon.json"):
        (home / name).unlink(missing_ok=True)


def rows(home: Path) -> dict[str, store.Row]:
    """Run id -> row."""
    return {row["run_id"]: row for row in invariants.rows(home)}


def reached(home: Path) -> int:
    """Wait until somebody stood at the failpoint; its pid."""
    return int(until(lambda: (home / "failpoint").exists() and (home / "failpoint").read_text().strip(), PATIENCE))


def play(case: Case, home: Path) -> list[str]:
    """Do what the case says, bring the home to rest as a person would, and return the broken invariants."""
    before = invariants.snapshot(home / "runs" / "reference")
    target = home.parent / "exported"
    acknowledged = _fault(case, home, target)
    broken: list[str] = []
    for _ in range(4):  # as often as a person would take jobs up again
        _daemon(home)
        until(lambda: all(r["state"] in invariants.RESTING for r in rows(home).values()), PATIENCE)
        _forget_half(home)
        broken += invariants.settled(home, PATIENCE, acknowledged=acknowledged, before=before, exports=[target])
        broken += [f"I9: {path} is left" for path in target.parent.glob(".exported*")]
        if not _taken_up(home):
            break
    if "one" in rows(home):
        broken += [f"I5: {text}" for text in invariants.i5_taken_up_again(home / "runs" / "one", home / "runs" / "reference")]
    if case.place.endswith("/export"):
        broken += [] if (target / invariants.EXPORT).exists() else ["I1: the export is not there at the end"]
    return broken


def _fault(case: Case, home: Path, target: Path) -> list[str]:
    """Let it happen; returns the acknowledged run ids."""
    place, _, doing = case.place.partition("/")
    failpoint = f"{place}:{case.action}"
    if place in CLIENT:
        return _client(case, home, failpoint)
    pid = start(home, failpoint)
    if doing == "export":
        client.submit_short("export", {"to": str(target)})
    else:
        client.submit([make_spec("one", **({"asks": doing} if doing else {}))])
    acknowledged = [name for name in rows(home) if name != "reference"]
    waiter = ask(home, "wait", str(rows(home)[acknowledged[0]]["job"])) if case.also == "waiter" else None
    who = reached(home)
    if case.action == "STOP":
        until(lambda: _state(who) in ("T", ""), PATIENCE)
    if waiter is not None:
        waiter.kill()
        waiter.communicate()
    if case.also in ("daemon", "both"):
        os.kill(pid, signal.SIGKILL)
        until(lambda: processes.created(pid) is None, PATIENCE)
    if case.action == "STOP":
        os.kill(who, signal.SIGKILL if case.also == "both" else signal.SIGCONT)
    return acknowledged


def _client(case: Case, home: Path, failpoint: str) -> list[str]:
    start(home)
    if case.place.startswith("submit"):
        asked = ask(home, "submit", "one", failpoint=failpoint)
    else:
        client.submit([make_spec("one", asks="client")])
        until(lambda: rows(home)["one"]["state"] == "running", PATIENCE)
        asked = ask(home, case.place.partition(".")[0], "one", failpoint=failpoint)
    who = reached(home)
    if case.action == "STOP":
        until(lambda: _state(who) == "T", PATIENCE)
        os.kill(who, signal.SIGCONT)
    asked.communicate(timeout=PATIENCE)
    done = asked.returncode == 0 or not case.place.startswith("submit")
    return ["one"] if done or case.place == "submit.acknowledged" else []


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _taken_up(home: Path) -> bool:
    """Retry and resume what a person would; False when every job is finished."""
    again = {"failed": client.retry, "cancelled": client.retry, "paused": client.resume}
    wanted = [(again[row["state"]], name) for name, row in rows(home).items() if row["state"] in again]
    for act, name in wanted:
        act(name)
    return bool(wanted)


def _daemon(home: Path) -> None:
    found = daemon.status()["pid"]
    if found is not None and _state(found) == "T":
        os.kill(found, signal.SIGCONT)
    start(home)


def _forget_half(home: Path) -> None:
    """Half-made folders of a submit that never was are swept when a daemon starts."""
    known = rows(home)
    if any(path.name not in known for path in (home / "runs").iterdir()):
        daemon.stop()
        start(home)


def fresh(template: Path, home: Path) -> None:
    """A copy of the home that `reference` made."""
    home.rmdir() if home.exists() else None
    shutil.copytree(template, home)
