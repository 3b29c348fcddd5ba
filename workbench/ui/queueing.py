"""The live table of the Runs screen and what one may do with the chosen rows."""

import math
from collections.abc import Mapping, Sequence
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
DOES = {  # what cannot be undone is asked once more
    "cancel": "Cancelling stops a run; what it has learnt so far is lost.",
    "retry": "A retry starts the run again under the same id: from its checkpoint if it was killed, else afresh.",
    "delete": "Deleting removes the run's folder with its adapter, predictions and log. MLflow keeps its record.",
}


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
    """The table; it follows the queue every two seconds while something is going on."""
    busy = any(queue.counts(part.experiment).get(state) for state in queue.LIVE)
    st.fragment(_table, run_every="2s" if busy else None)(part, busy)


def _table(part: Part, was_busy: bool) -> None:
    with notices.shown():
        rows, number = queue.rows(part.experiment, part.states, skip=part.skip), queue.counts(part.experiment)
        if not number:
            notices.empty("Nothing has been queued yet.", "build", "Build an experiment")
            return
        _counts(rows, number)
        if rows:
            event = tables.show(
                tables.jobs(rows), "The queue", columns=tables.job_columns(), on_select="rerun", selection_mode="multi-row",
                key=f"runs.table.{tables.fingerprint(row['job'] for row in rows)}", height=min(38 + 35 * len(rows), 560),
            )  # fmt: skip
            _actions([rows[i] for i in event.selection.rows if i < len(rows)])
        else:
            notices.empty("No job is in this state.")
        if was_busy and not any(number.get(state) for state in queue.LIVE):
            st.rerun()  # the last run is over: the timer stops


def _counts(rows: Sequence[Mapping[str, Any]], number: Mapping[str, int]) -> None:
    joined = {**number, "running": number.get("running", 0) + number.get("starting", 0)}
    with st.container(horizontal=True):
        for state in ("running", "queued", "finished", "failed", "cancelled"):
            if joined.get(state):
                st.markdown(f"{notices.state(state)} {joined[state]:,}", width="content")
        left = [row["remaining"] for row in rows if row["remaining"] is not None]
        if left:
            st.markdown(f":gray[present run: about {words.duration(max(left))} left]", width="content")


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
            able = [row for row in picked if action in row["actions"]]
            if able and action in DOES:
                _confirm(action, able)
            elif able:
                numbers = tuple(row["job"] for row in able)
                key = f"runs.{action}.{tables.fingerprint(numbers)}"
                st.button(f"{action.capitalize()} {len(able)}", icon=ICONS[action], key=key, on_click=_do, args=(action, numbers))
            if told := st.session_state.pop(f"runs.told.{action}", ""):
                notices.problem(told)


def _confirm(action: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A popover that names the runs and asks once more."""
    numbers = [row["job"] for row in rows]
    with st.popover(f"{action.capitalize()} {len(rows)}", icon=ICONS[action]):
        st.markdown(
            f"**{action.capitalize()} {', '.join(f'job {n}' for n in numbers[:12])}{' …' if len(numbers) > 12 else ''}?**"
        )
        st.caption(DOES[action])
        st.button(
            f"Yes, {action}",
            key=f"runs.{action}.{tables.fingerprint(numbers)}",
            type="primary",
            on_click=_do,
            args=(action, tuple(numbers)),
        )


def _do(action: str, numbers: Sequence[int]) -> None:
    from workbench.core.errors import WorkbenchError

    for number in numbers:
        try:
            queue.act(action, number)
        except WorkbenchError as error:
            st.session_state[f"runs.told.{action}"] = str(error)
