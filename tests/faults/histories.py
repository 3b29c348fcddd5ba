"""F10: random clients and random kills write a history; each job's part of it is judged by itself, because jobs are independent.

A history is a list of entries {op, run, ok, said, states}: what was asked of which run, whether it was granted, the sentence if
not, and for `list` the states that were shown.
"""

import json
import os
import random
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.faults import grid, invariants
from tests.jobs.living import make_spec, until
from workbench.core.errors import WorkbenchError
from workbench.jobs import client, daemon, processes
from workbench.jobs.store import ENDED, LIVE

Entry = dict[str, Any]
VERBS = ("cancel", "pause", "resume", "retry", "delete")
KILLS = ("kill daemon", "kill worker")
ALLOWED = {
    "cancel": {"cancelled", "finished", "failed"},
    "pause": {"paused", "finished", "failed"},
    "resume": {"finished", "failed"},
    "retry": {"finished", "failed"},
    "submit": {"finished", "failed"},
}
"""Where a run may rest after the last thing that was granted; `failed` only when a kill came after it."""


def judge(history: Sequence[Entry], rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is not as the history says; one pass over each run's entries."""
    runs = {e["run"] for e in history if e["op"] == "submit" and e["ok"]}
    broken = [f"{name} was never submitted" for name in rows if name not in runs]
    broken += [f"{e['op']}: {text}" for e in history if not e["ok"] for text in invariants.i10_sentence(e["said"])]
    for name in sorted(runs):
        broken += [f"{name}: {text}" for text in _one(name, history, rows.get(name))]
    return broken


def _one(name: str, history: Sequence[Entry], row: Mapping[str, Any] | None) -> list[str]:
    granted = [(n, e["op"]) for n, e in enumerate(history) if e["run"] == name and e["ok"] and e["op"] not in KILLS]
    ops = [op for _, op in granted]
    if "delete" in ops:
        return [] if row is None and ops[-1] == "delete" else ["it was deleted and something is still there"]
    if row is None:
        return ["it was acknowledged and is gone"]
    broken = []
    last = ops[-1]
    if row["state"] not in ALLOWED[last]:
        broken.append(f"the last thing granted was {last}, and it rests {row['state']}")
    if row["state"] == "failed" and not any(e["op"] in KILLS for e in history[granted[0][0] :]):
        broken.append("it failed and nobody was killed")
    again = ops.count("resume") + ops.count("retry")
    killed = sum(e["op"] == "kill daemon" for e in history)
    if not 1 + again <= row["attempt"] <= 1 + again + killed:
        broken.append(f"it is at attempt {row['attempt']} after {again} times taken up and {killed} daemons killed")
    return broken + _shown(name, history)


def _shown(name: str, history: Sequence[Entry]) -> list[str]:
    """A run that was shown over stays so until somebody is granted to take it up."""
    before, broken = "", []
    for entry in history:
        if entry["op"] == "list" and name in entry["states"]:
            now = entry["states"][name]
            if before in ENDED and now != before:
                broken.append(f"it was shown {before} and later {now}, and nobody took it up")
            before = now
        elif entry["run"] == name and entry["ok"] and entry["op"] in ("retry", "resume"):
            before = ""
    return broken


class Clients(RuleBasedStateMachine):
    """Random requests and kills on one home; at the end everything is let rest and judged."""

    folder: Path
    reference: Path
    counts: dict[str, int]

    @initialize(seed=st.integers(0, 2**20))
    def begin(self, seed: int) -> None:
        """An empty home."""
        self.rng = random.Random(seed)
        self.home = self.folder / f"home{self.counts['homes']}"
        self.counts["homes"] += 1
        self.home.mkdir()
        os.environ["WORKBENCH_HOME"] = str(self.home)
        client.ensure_daemon = lambda: daemon.status()["running"] or grid.start(self.home)
        self.history: list[Entry] = []
        self.names: list[str] = []
        for _ in range(2):
            self.submit(seconds=0.05)

    def _note(self, op: str, run: str, ok: bool = True, said: str = "", states: Mapping[str, str] | None = None) -> None:
        entry = {"op": op, "run": run, "ok": ok, "said": said, "states": dict(states or {})}
        self.history.append(entry)
        self.counts["kills" if op in KILLS else "operations"] += 1
        with (self.home / "history.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def _ask(self, op: str, run: str, act: Any) -> None:
        try:
            act()
            self._note(op, run)
        except WorkbenchError as error:
            self._note(op, run, False, str(error))

    @rule(seconds=st.sampled_from((0.0, 0.05, 0.2)))
    def submit(self, seconds: float) -> None:
        name = f"r{len(self.names)}"
        self.names.append(name)
        self._ask("submit", name, lambda: client.submit([make_spec(name, seconds=seconds)]))

    @rule(verb=st.sampled_from(VERBS), which=st.integers(0, 30))
    def ask(self, verb: str, which: int) -> None:
        if self.names:
            name = self.names[-1 - which % len(self.names)]
            self._ask(verb, name, lambda: getattr(client, verb)(name))

    @rule()
    def list(self) -> None:
        self._note("list", "", states={row["run_id"]: row["state"] for row in client.jobs()})

    @rule()
    def kill_daemon(self) -> None:
        pid = daemon.status()["pid"]
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            until(lambda: processes.created(pid) is None, grid.PATIENCE)
            self._note("kill daemon", "")

    @rule()
    def kill_worker(self) -> None:
        live = [row for row in invariants.rows(self.home) if row["state"] in LIVE and row["pid"] is not None]
        if live and processes.signal_group(live[0]["pgid"], live[0]["pid_created"], signal.SIGKILL):
            self._note("kill worker", live[0]["run_id"])

    def teardown(self) -> None:
        """Let it rest, judge it, leave nothing."""
        if not hasattr(self, "home"):
            return
        client.ensure_daemon()
        rest = [name for name in self.names if name in grid.rows(self.home)]
        until(lambda: all(r["state"] in invariants.RESTING for r in invariants.rows(self.home)), grid.PATIENCE)
        broken = invariants.settled(self.home, grid.PATIENCE, acknowledged=rest) + judge(self.history, grid.rows(self.home))
        for name, row in grid.rows(self.home).items():
            if row["state"] == "finished":
                broken += invariants.i5_taken_up_again(self.home / "runs" / name, self.reference)
        daemon.stop()
        assert not broken, "\n".join([*broken, *(str(entry) for entry in self.history)])
        shutil.rmtree(self.home)
