"""F10 and F11: many clients at once and random kills write a history; `linear` judges each job's part of it.

A client is a process. It notes each question before it asks and each answer after, in a file of its own, so that the history
tells of a killed client too. Daemons, workers, clients and, in a soak, engines are killed at random moments.
"""

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.faults import forking, grid, invariants, linear
from tests.faults.linear import Entry
from tests.jobs.living import make_spec, planted_engine, until
from workbench.core.errors import WorkbenchError
from workbench.jobs import client, daemon, engine, processes, wire
from workbench.jobs.store import LIVE, Row

REQUESTS = {"submit": 3, "list": 2, "resume": 3, "retry": 2, "cancel": 2, "pause": 2, "delete": 1, "export": 1}
"""What a client asks, and how often; a `kill` is of one of KILLS."""
KILLS = {"daemon": 3, "worker": 3, "client": 2}
ENGINES = {"nap": 1}, {"engine": 1}
"""What there is more to ask and to kill where engines are part of it."""
NEWEST = 6
"""Requests are about so many newest trainings, so that clients meet at the same ones."""


class Plan(NamedTuple):
    """One history.

    Attributes:
        seed: of everything random.
        clients: processes at once.
        operations: of each client, kills among them.
        often: how often a client kills instead of asking, on the scale of REQUESTS.
        rest: longest pause of a client between two requests.
        prefix: what the names of its runs begin with.
        engines: whether there are engines to kill.
    """

    seed: int
    clients: int = 8
    operations: int = 54
    often: int = 1
    rest: float = 0.3
    prefix: str = "h"
    engines: bool = False


class Told(NamedTuple):
    """What came of a history: its entries, how many were asked and killed, and what is broken."""

    entries: list[Entry]
    operations: int
    kills: int
    broken: list[str]


def play(home: Path, plan: Plan, reference: Path) -> Told:
    """Let the clients ask and be killed, let everything come to rest, and judge it."""
    client.ensure_daemon = forking.start
    _go(home, plan)
    daemon.stop()
    client.ensure_daemon()  # a new one sweeps what killed clients left
    until(lambda: all(r["state"] in invariants.RESTING for r in invariants.rows(home)), 2 * grid.PATIENCE)
    entries = told(home, plan.prefix)
    kills = [e for e in entries if e.op.startswith("kill")]
    killed = [e for e in kills if e.ok or e.ended is None]  # who asked may have been killed before it could say so
    rows = {name: row for name, row in grid.rows(home).items() if name.startswith(plan.prefix)}
    broken = invariants.settled(home, grid.PATIENCE) + judge(entries, rows, killed) + _exports(home, entries)
    for name, row in rows.items():
        if row["state"] == "finished":
            broken += invariants.i5_taken_up_again(home / "runs" / name, reference)
    return Told(entries, len(entries) - len(kills), len(killed), broken)


def judge(entries: list[Entry], rows: Mapping[str, Mapping[str, Any]], killed: list[Entry]) -> list[str]:
    """What is not as the history says: answers that fit no order, attempts, sentences, runs that nobody submitted."""
    workers = {e.run for e in killed if e.op == "kill worker"}
    asked = {e.run for e in entries if e.op == "submit"}
    broken = [f"{name} was never submitted" for name in rows if name not in asked]
    broken += [f"{e.op}: {text}" for e in entries if e.said for text in invariants.i10_sentence(e.said)]
    daemons = sum(e.op == "kill daemon" for e in killed)
    for name in sorted(asked):
        row = rows.get(name)
        fault = linear.misfit(name, entries, row["state"] if row else "gone", name in workers)
        broken += [f"{name}: {fault}"] if fault else []
        again = [e for e in entries if e.run == name and e.op in ("resume", "retry")]
        least, most = 1 + sum(e.ok for e in again), 1 + daemons + sum(e.ok or e.ended is None for e in again)
        if row and not least <= row["attempt"] <= most:
            broken.append(f"{name} is at attempt {row['attempt']}, which must be {least} to {most}")
    return broken


def told(home: Path, prefix: str) -> list[Entry]:
    """The history as the clients noted it, in order of the questions."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for path in sorted(home.glob(f"history-{prefix}-*.jsonl")):
        for line in path.read_text().splitlines():
            note = json.loads(line)
            found.setdefault((path.name, note.pop("n")), {}).update(note)
    return sorted((Entry(**note) for note in found.values()), key=lambda e: e.began)


# --- a client


def ask_all(home: Path, plan: Plan, number: int, first: int) -> None:
    """Be a client: ask its requests from the `first` on."""
    rng = random.Random(f"{plan.seed} {number} {first}")
    asked = {**REQUESTS, "kill": plan.often, **(ENGINES[0] if plan.engines else {})}
    if plan.engines:
        planted_engine(pytest.MonkeyPatch())  # in this process, which ends
    with open(_notes(home, plan, number), "ab", buffering=0) as notes:
        for n in range(first, plan.operations):
            op = rng.choices(list(asked), list(asked.values()))[0]
            op, run, act = _request(op, plan, f"{plan.prefix}{number:02}x{n:04}", rng, home)
            _note(notes, n, op=op, run=run, began=time.monotonic())
            answer, said = None, ""
            try:
                answer = act()
            except WorkbenchError as error:
                said = str(error)
            except Exception as error:  # no client may ever see one
                said = f"Traceback: {error!r}"
            shown = answer if isinstance(answer, dict) else {}
            _note(notes, n, ended=time.monotonic(), ok=not said and answer is not False, said=said, states=shown)
            time.sleep(rng.random() * plan.rest)


def _note(notes: Any, n: int, **what: Any) -> None:
    notes.write(json.dumps({"n": n, **what}).encode() + b"\n")  # one write: whole, or not there


def _notes(home: Path, plan: Plan, number: int) -> Path:
    return home / f"history-{plan.prefix}-{number:02}.jsonl"


def _request(op: str, plan: Plan, new: str, rng: random.Random, home: Path) -> tuple[str, str, Callable[[], Any]]:
    """(its name, the run it is about, the request)."""
    if op == "submit":
        spec = make_spec(new, seconds=rng.choice((0.0, 0.02, 0.1)))
        return op, new, lambda: client.submit([spec])
    if op == "list":
        return op, "", lambda: {r["run_id"]: r["state"] for r in client.jobs() if r["run_id"].startswith(plan.prefix)}
    if op == "export":
        return op, new, lambda: client.submit_short("export", {"to": str(home / "out" / new)})
    if op == "nap":
        return op, "", lambda: engine.ask("nap", {"seconds": 0.2})["slept"] and None
    if op == "kill":
        who = {**KILLS, **(ENGINES[1] if plan.engines else {})}
        what = rng.choices(list(who), list(who.values()))[0]
        live = [row for row in invariants.rows(home) if row["state"] in LIVE and row["pid"] is not None]
        row = rng.choice(live) if live and what == "worker" else None
        return f"kill {what}", row["run_id"] if row else "", lambda: _kill(what, row, rng, home)
    known = [row["run_id"] for row in client.newest(None, (), NEWEST, kinds=("train",))]
    run = rng.choice([name for name in known if name.startswith(plan.prefix)] or [new])
    return op, run, lambda: getattr(client, op)(run) and None


def _kill(what: str, row: Row | None, rng: random.Random, home: Path) -> bool:
    """Kill one; False where there was nobody. The client that asks is killed a moment later, in its next request."""
    if what == "client":
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.001, 0.05))  # nobody handles it: it ends the process on the spot
        return True
    if what == "worker":
        return row is not None and processes.signal_group(row["pgid"], row["pid_created"], signal.SIGKILL)
    engines = [pid for pid, words in invariants._commands(home) if words[-1] == "engine"] if what == "engine" else []
    pid = daemon.status()["pid"] if what == "daemon" else next(iter(engines), None)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):  # another client was quicker
        os.kill(pid, signal.SIGKILL)
    return True


def _go(home: Path, plan: Plan) -> None:
    """Start the clients and wait for them; the place of one that was killed is taken by a new one."""
    clients = {_forked(lambda n=n: ask_all(home, plan, n, 0)): n for n in range(plan.clients)}
    while clients:
        pid, status = os.wait()
        number = clients.pop(pid)
        lines = [json.loads(line) for line in _notes(home, plan, number).read_text().splitlines()]
        first = lines[-1]["n"] + 1 if lines else 0
        if first < plan.operations:
            assert os.waitstatus_to_exitcode(status) == -signal.SIGALRM, f"client {number} ended by itself"
            clients[_forked(lambda n=number, f=first: ask_all(home, plan, n, f))] = number


def _forked(act: Callable[[], None]) -> int:
    """A process that does this; none of our stores is open now."""
    child = os.fork()
    if child:
        return child
    try:
        act()
    finally:
        os._exit(0)


def _exports(home: Path, entries: list[Entry]) -> list[str]:
    """Acknowledged exports have a job; those that ended well are there; all that are there are whole."""
    jobs = {Path((wire.read_json(invariants.folder_of(home, row) / "request.json") or {})["to"]).name: row["state"]
            for row in invariants.rows(home) if row["kind"] == "export"}  # fmt: skip
    there = {p.name: invariants.unfit(p) for p in (home / "out").iterdir()} if (home / "out").is_dir() else {}
    broken = [f"export {e.run} was acknowledged and is gone" for e in entries if e.op == "export" and e.ok and e.run not in jobs]
    broken += [f"export {name} ended well and is not there" for name in jobs if jobs[name] == "finished" and name not in there]
    return broken + [f"export {name}: {text}" for name, texts in there.items() for text in texts]
