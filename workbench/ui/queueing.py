"""The live table of the Runs screen and what one may do with the chosen rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from workbench.services import queue, results
from workbench.ui import notices, tables, words

ICONS = {"cancel": ":material/stop_circle:", "retry": ":material/replay:", "delete": ":material/delete:"}
DOES = {
    "cancel": "Cancelling stops a run; what it has learnt so far is lost.",
    "retry": "A retry starts the run afresh under the same id.",
    "delete": "Deleting removes the run's folder with its adapter, predictions and log. MLflow keeps its record.",
}


def filters() -> str | None:
    """Which experiment to show; follows `?experiment=` and writes it."""
    known = [one["experiment"] for one in results.experiments()]
    asked = st.query_params.get("experiment", "")
    start = known.index(asked) + 1 if asked in known else 0
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    chosen = left.selectbox(
        "Experiment", ["", *known], start, key=f"runs.experiment.{asked}", format_func=lambda e: e or "all experiments"
    )
    if chosen != asked:
        st.query_params.from_dict({"experiment": chosen} if chosen else {})
    if chosen:
        with right:
            notices.link("compare", "Compare this experiment", ":material/scatter_plot:", experiment=chosen)
    return chosen or None


def live(experiment: str | None) -> None:
    """The table; it follows the queue every two seconds while something is going on."""
    busy = any(row["state"] in queue.LIVE for row in queue.rows(experiment))
    st.fragment(_table, run_every="2s" if busy else None)(experiment, busy)


def _table(experiment: str | None, was_busy: bool) -> None:
    with notices.shown():
        rows = queue.rows(experiment)
        if not rows:
            notices.empty("Nothing has been queued yet.", "build", "Build an experiment")
            return
        _counts(rows)
        event = tables.show(
            tables.jobs(rows), "The queue", columns=tables.job_columns(), on_select="rerun", selection_mode="multi-row",
            key=f"runs.table.{tables.fingerprint(row['job'] for row in rows)}", height=min(38 + 35 * len(rows), 560),
        )  # fmt: skip
        picked = [rows[i] for i in event.selection.rows if i < len(rows)]
        _actions(picked)
        if was_busy and not any(row["state"] in queue.LIVE for row in rows):
            st.rerun()  # the last run is over: the timer stops


def _counts(rows: Sequence[Mapping[str, Any]]) -> None:
    states = ("running", "queued", "finished", "failed", "cancelled")
    number = {s: sum(row["state"] == s or (s == "running" and row["state"] == "starting") for row in rows) for s in states}
    with st.container(horizontal=True):
        for state in states:
            if number[state]:
                st.markdown(f"{notices.state(state)} {number[state]}", width="content")
        left = [row["remaining"] for row in rows if row["remaining"] is not None]
        if left:
            st.markdown(f":gray[present run: about {words.duration(max(left))} left]", width="content")


def _actions(picked: Sequence[Mapping[str, Any]]) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if not picked:
            st.caption("Tick rows on the left to open, cancel, retry or delete them.")
            return
        if len(picked) == 1 and picked[0]["kind"] == "train":
            notices.link("run", "Open run", ":material/show_chart:", run=picked[0]["run_id"])
        for action in queue.ACTIONS:
            able = [row for row in picked if action in row["actions"]]
            if able:
                _confirm(action, able)


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
    if told := st.session_state.pop(f"runs.told.{action}", ""):
        notices.problem(told)


def _do(action: str, numbers: Sequence[int]) -> None:
    from workbench.core.errors import WorkbenchError

    for number in numbers:
        try:
            queue.act(action, number)
        except WorkbenchError as error:
            st.session_state[f"runs.told.{action}"] = str(error)
