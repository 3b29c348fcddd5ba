"""The live table of the Runs screen and what one may do with the chosen rows."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import streamlit as st

from workbench.services import queue, results
from workbench.ui import address, notices, tables, theme, words

ICONS = {
    "cancel": ":material/stop_circle:",
    "pause": ":material/pause:",
    "resume": ":material/play_arrow:",
    "retry": ":material/replay:",
    "delete": ":material/delete:",
}
MOVES = {"first": ":material/vertical_align_top:", "up": ":material/arrow_upward:", "down": ":material/arrow_downward:"}
DOES = {  # what cannot be undone is asked once more
    "cancel": "Cancelling stops a run; what it has learnt so far is lost.",
    "retry": "A retry starts the run again under the same id: from its checkpoint if it was killed, else afresh.",
    "delete": "Deleting removes the adapter, checkpoints, predictions and log, and MLflow's copy of the adapter. MLflow keeps "
    "the figures; what you exported stays.",
}
SAID_FOR = 15.0
"""Seconds for which an answer to a button stays."""
EVERY = 1.5
"""Seconds between two looks at the queue, so that an event is on the page within two."""


@dataclass(frozen=True)
class Part:
    """Which part of the queue is shown: one experiment or all, one state or all, and how many newer jobs are skipped."""

    experiment: str | None
    states: tuple[str, ...]
    skip: int


def filters() -> Part:
    """Experiment, state and page; the URL holds them."""
    address.follow("runs")
    known = [one["experiment"] for one in results.experiments()]
    places = st.columns([4, 2, 2, 2], vertical_alignment="bottom")
    with places[0]:
        experiment = address.one(
            st.selectbox, "runs", "experiment", "Experiment", ["", *known], "", format_func=lambda e: e or "all experiments"
        )
    number = queue.counts(experiment or None)
    with places[1]:
        state = address.one(
            st.selectbox, "runs", "state", "State", ["", *theme.STATES], "",
            format_func=lambda s: f"{s} ({number.get(s, 0):,})" if s else f"all states ({sum(number.values()):,})",
        )  # fmt: skip
    most = number.get(state, 0) if state else sum(number.values())
    pages = list(range(1, max(math.ceil(most / queue.MOST), 1) + 1))
    page = 1
    if len(pages) > 1:
        with places[2]:
            page = address.one(
                st.selectbox, "runs", "page", f"Page, {queue.MOST} jobs each", pages, 1, format_func=lambda p: _span(p, most)
            )
    if experiment:
        with places[3]:
            notices.link("compare", "Compare this experiment", ":material/scatter_plot:", experiment=experiment)
    return Part(experiment or None, (state,) if state else (), queue.MOST * (page - 1))


def _span(page: int, most: int) -> str:
    first = queue.MOST * (page - 1) + 1
    return f"{first:,} to {min(first + queue.MOST - 1, most):,}{', the newest' if page == 1 else ''}"


def live(part: Part) -> None:
    """The table; it follows the queue, also when somebody else submits or resumes while nothing is going on."""
    st.fragment(_table, run_every=EVERY)(part)


def _table(part: Part) -> None:
    with notices.shown():
        rows, number = queue.rows(part.experiment, part.states, skip=part.skip), queue.counts(part.experiment)
        if not number:
            notices.empty("Nothing has been queued yet.", "build", "Build an experiment")
            return
        _counts(part.experiment, number)
        if rows:
            event = tables.show(
                tables.jobs(rows), "The queue", columns=tables.job_columns(), on_select="rerun", selection_mode="multi-row",
                key=f"runs.table.{tables.fingerprint(row['job'] for row in rows)}", height=min(38 + 35 * len(rows), 560),
            )  # fmt: skip
            _actions([rows[i] for i in event.selection.rows if i < len(rows)])
        else:
            notices.empty("No job is in this state.")


def _counts(experiment: str | None, number: Mapping[str, int]) -> None:
    """How many are in which state, when all will be done, and one hand on all that waits of an experiment."""
    joined = {**number, "running": number.get("running", 0) + number.get("starting", 0)}
    with st.container(horizontal=True, vertical_alignment="center"):
        for state in ("running", "queued", "paused", "finished", "failed", "cancelled"):
            if joined.get(state):
                st.markdown(f"{notices.state(state)} {joined[state]:,}", width="content")
        if experiment and number.get("queued"):
            tip = "What runs goes on; the others wait until they are released."
            st.button("Hold all", icon=ICONS["pause"], key="runs.hold", on_click=_all, args=(queue.hold, experiment), help=tip)
        if experiment and number.get("paused"):
            tip = "Everything that is paused is queued again, in its place."
            st.button(
                "Release all", icon=ICONS["resume"], key="runs.release", on_click=_all, args=(queue.release, experiment), help=tip
            )
    if (found := queue.estimate(experiment)) is not None:
        many = f"these {found.runs:,} runs are" if found.runs > 1 else "this run is"
        st.caption(f"About {words.duration(found.seconds)} until {many} done (an estimate from {found.basis}).")
    answer()


def answer() -> None:
    """What the last button had to say, for a while: the page is drawn again and again."""
    since, text, bad = st.session_state.get("runs.said", (-SAID_FOR, "", False))
    if time.monotonic() - since < SAID_FOR:
        notices.problem(text) if bad else st.success(text, icon=":material/check:")


def _all(act: Callable[[str], int], experiment: str) -> None:
    with _telling():
        act(experiment)


def _actions(picked: Sequence[Mapping[str, Any]]) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if not picked:
            st.caption("Tick rows on the left to open, pause, resume, cancel, retry or delete them.")
            return
        if len(picked) == 1 and picked[0]["kind"] == "train":
            notices.link("run", "Open run", ":material/show_chart:", run=picked[0]["run_id"])
        trained = [row for row in picked if row["kind"] == "train"]
        if len(trained) > 1:
            text, experiments = f"Compare these {len(trained)}", list(dict.fromkeys(row["experiment"] for row in trained))
            ids = [row["run_id"] for row in trained]
            notices.link("compare", text, ":material/scatter_plot:", experiment=experiments, run=ids)
        for action in queue.ACTIONS:
            ask(action, [row["job"] for row in picked if action in row["actions"]])
        _moves([row for row in picked if row["turn"]])
    if len(picked) == 1 and (note := tables.note(picked[0])):
        st.caption(notices.plain(notices.capital(note)))


def _moves(waiting: Sequence[Mapping[str, Any]]) -> None:
    """Another place in the queue: several keep their order among themselves."""
    ordered = [row["job"] for row in sorted(waiting, key=lambda row: row["turn"])]
    for where in ("first", "up", "down") if len(ordered) == 1 else ("first",) if ordered else ():
        text = f"Move {len(ordered)} first" if len(ordered) > 1 else f"Move {where}"
        key = f"runs.{where}.{tables.fingerprint(ordered)}"
        st.button(text, icon=MOVES[where], key=key, on_click=_move, args=(ordered, where))


def _move(jobs: Sequence[int], where: str) -> None:
    with _telling():
        for job in reversed(jobs):
            queue.move(job, where)


def ask(action: str, numbers: Sequence[int]) -> None:
    """A button that asks for something of some jobs; none for none. What cannot be undone names them and asks once more."""
    many = f" {len(numbers)}" if len(numbers) > 1 else ""
    text, key = action.capitalize() + many, f"runs.{action}.{tables.fingerprint(numbers)}"
    asked = {"key": key, "on_click": _do, "args": (action, tuple(numbers))}
    if numbers and action not in DOES:
        st.button(text, icon=ICONS[action], **asked)
    elif numbers:
        with st.popover(text, icon=ICONS[action]):
            named = ", ".join(f"job {n}" for n in numbers[:12])
            st.markdown(f"**{action.capitalize()} {named}{' …' if len(numbers) > 12 else ''}?**")
            frees = f" It frees about {words.size(queue.held_bytes(numbers))} on disk." if action == "delete" else ""
            st.caption(DOES[action] + frees)
            st.button(f"Yes, {action}", type="primary", **asked)


def _do(action: str, numbers: Sequence[int]) -> None:
    freed, done = 0, 0
    st.session_state.pop("runs.said", None)
    for number in numbers:
        with _telling():
            freed, done = freed + queue.act(action, number), done + 1
    if action == "delete" and done == len(numbers):
        jobs = f"{done:,} jobs" if done > 1 else f"Job {numbers[0]}"
        st.session_state["runs.said"] = time.monotonic(), f"{jobs} deleted; {words.size(freed)} freed.", False


@contextmanager
def _telling() -> Iterator[None]:
    """Keep what a callback has to complain of until the page is drawn."""
    from workbench.core.errors import WorkbenchError

    try:
        yield
    except WorkbenchError as error:
        st.session_state["runs.said"] = time.monotonic(), str(error), True
