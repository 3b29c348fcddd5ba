"""The judge of F10: whether what many clients saw of one job, at the same time, is what a queue could have answered one by one.

A job is a small automaton. Each answer must fit some moment between its question and its return, and between answers a job may
go on by itself. All orders that the times allow are followed at once (Wing and Gong's search, answer by answer, as Lowe's
just-in-time linearization): jobs are independent, so that this is cheap.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

GOING = {
    "going": (),
    "going, pause": ("paused",),
    "going, cancel": ("cancelled",),
    "going, cancel, pause": ("cancelled", "paused"),
}
"""A job that waits or works, and what was asked of it -> how that may end it; an earlier pause gives way to a cancel."""
NOWHERE = ("absent", "gone")
NO_MORE = ("no job is called", "can be deleted once", "is deleted.")
RULES = ("only a ", "a live job cannot be deleted", *NO_MORE)
"""Refusals that say something of the job; after any other error nobody knows whether the request came to pass."""


class Entry(NamedTuple):
    """One question of a client and its answer.

    Attributes:
        op: submit, cancel, pause, resume, retry, delete, list, export, ping; or `kill daemon|worker|client|engine`.
        run: run id; empty where it is about none.
        began, ended: seconds of one clock for all processes; `ended` is None where the client was killed.
        ok: whether it was granted.
        said: the sentence if it was not.
        states: what a list showed: run id -> state.
    """

    op: str
    run: str
    began: float
    ended: float | None = None
    ok: bool = False
    said: str = ""
    states: Mapping[str, str] = {}


def misfit(name: str, entries: Iterable[Entry], last: str, killed: bool) -> str | None:
    """The first answer about this run that no order explains, as a sentence; None when all fit.

    Args:
        name: run id.
        entries: those of the whole history.
        last: the state it rests in; `gone` without a row.
        killed: whether a worker of it was killed.
    """
    asked = [e for e in entries if not e.op.startswith("kill")]
    known = [e for e in asked if e.run == name or (e.op == "list" and e.ended is not None)]
    moments = [(e.began, 0, n) for n, e in enumerate(known)] + [
        (e.ended, 1, n) for n, e in enumerate(known) if e.ended is not None
    ]
    open_: set[int] = set()
    configurations = {("absent", frozenset[int]())}
    for _, returned, n in sorted(moments):
        if not returned:
            open_.add(n)
            continue
        grown = _grown(name, configurations, {m: known[m] for m in open_}, killed)
        before = sorted({state for state, _ in configurations})
        configurations = {(state, done - {n}) for state, done in grown if n in done}
        open_.discard(n)
        if not configurations:
            e = known[n]
            shown = f" showed {e.states.get(name, 'nothing')}" if e.op == "list" else f" {'was granted' if e.ok else e.said}"
            return f"{e.op}{shown}, after it could be {' or '.join(before)}"
    ends = {state for state, _ in _grown(name, configurations, {m: known[m] for m in open_}, killed)}
    rests = {"gone", "absent"} if last == "gone" else {last}
    return None if ends & rests else f"it rests {last}, and could be {' or '.join(sorted(ends))}"


def _grown(
    name: str, configurations: set[tuple[str, frozenset[int]]], asked: Mapping[int, Entry], killed: bool
) -> set[tuple[str, frozenset[int]]]:
    """Everything that may be after some of the open questions were answered, in any order."""
    found, waiting = set(configurations), list(configurations)
    while waiting:
        state, done = waiting.pop()
        following = [(s, done) for s in _by_itself(state, killed)]
        following += [(s, done | {n}) for n, e in asked.items() if n not in done for s in _answered(name, e, state)]
        fresh = set(following) - found
        found |= fresh
        waiting += fresh
    return found


def _by_itself(state: str, killed: bool) -> Iterator[str]:
    if state in GOING:
        yield "finished"
        yield from ("failed",) if killed else ()
        yield from GOING[state]


def _answered(name: str, e: Entry, state: str) -> Iterator[str]:
    """The states after this answer, if it can be given in `state`."""
    granted = _granted(e.op, state)
    if e.op == "list":
        yield from (state,) if _shown(e.states.get(name), state) else ()
    elif e.ok:
        yield from granted
    elif e.ended is None or not (e.op == "submit" or any(text in e.said for text in RULES)):
        yield from (state, *granted)  # nobody knows whether it came to pass
    elif any(text in e.said for text in NO_MORE):
        yield from (state,) if state in NOWHERE else ()
    elif e.op == "submit" or (state not in NOWHERE and (not granted or (e.op == "delete" and state in GOING))):
        yield state


def _shown(shown: str | None, state: str) -> bool:
    if shown is None:
        return state in NOWHERE
    return state in GOING if shown in ("queued", "starting", "running") else state == shown


def _granted(op: str, state: str) -> tuple[str, ...]:
    """The states after the request was granted in `state`; none where it must be refused."""
    going = state in GOING
    after = {
        "submit": ("going",) if state == "absent" else (),
        "cancel": ("cancelled", "going, cancel") if going else ("cancelled",) if state == "paused" else (),
        "pause": ("paused", "going, cancel, pause" if "cancel" in state else "going, pause") if going else (),
        "resume": ("going",) if state == "paused" else (),
        "retry": ("going",) if state in ("failed", "cancelled") else (),
        "delete": ("gone",) if state not in NOWHERE else (),
    }
    return after.get(op, ())
