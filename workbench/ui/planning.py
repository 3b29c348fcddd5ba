"""The right side of the Build screen: the live plan, the spec as text, and the launch."""

import time
from collections.abc import Mapping
from typing import Any

import streamlit as st

from workbench.services import experiments, files, plans
from workbench.ui import notices, tables, words

AGAIN_AFTER = 15.0  # seconds in which a second click launches nothing


@st.cache_data(ttl="2m", max_entries=64, show_spinner="Planning…")
def _planned(text: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return plans.ask(spec)


def plan(spec: Mapping[str, Any], usable: bool) -> bool:
    """Draw the plan; True when nothing blocks the launch."""
    st.subheader("Plan", anchor=False)
    if not usable or not spec["methods"]:
        st.info("Choose data and at least one method to see what it will take.", icon=":material/info:")
        return False
    with notices.shown():
        found = _planned(files.spec_text(spec), spec)
        runs = len(found["methods"]) * len(spec["seeds"])
        seconds = [one["predicted"]["train_seconds"] for one in found["methods"]]
        total = None if None in seconds else sum(seconds) * len(spec["seeds"])
        tiles = st.columns(3)
        tiles[0].metric("Runs", runs)
        tiles[1].metric("Training rows", words.count(found["rows"].get("train")))
        tiles[2].metric(
            "Training time", words.duration(total), help="All runs one after the other, without loading and evaluation."
        )
        tables.show(tables.plan(found["methods"]), "What each method will take", columns=_columns())
        for one in found["methods"]:
            for sentence in one["problems"]:
                notices.problem(f"{one['label']}: {sentence}")
        for note in found["notes"]:
            st.caption(notices.plain(note))
        return not found["problems"]
    return False


def _columns() -> dict[str, Any]:
    column = st.column_config
    return {
        "Method": column.TextColumn(width=112),
        "Trainable": column.NumberColumn(
            format="localized", width=78, help="Scalars that differ from the base after training, without the head"
        ),
        "Memory": column.TextColumn(width=70, help="Predicted peak memory of the training"),
        "Time": column.TextColumn(width=65, help="Predicted training time of one run"),
        "Rate": column.TextColumn(width=58, help="Learning rate: yours, or the method's default"),
    }


def launch(spec: Mapping[str, Any], ready: bool) -> None:
    """The button; submits once and goes to the Runs page."""
    if not st.button(
        "Launch", type="primary", disabled=not ready, icon=":material/play_arrow:", width="stretch", key="build.launch"
    ):
        return
    with notices.shown():
        text = files.spec_text(spec)
        before = st.session_state.get("launched")
        if before is None or before[0] != text or time.monotonic() - before[1] > AGAIN_AFTER:
            with st.spinner("Queueing the runs…"):
                done = experiments.ask_submit(spec)
            st.session_state["launched"] = (text, time.monotonic(), done["experiment"])
        st.switch_page("pages/runs.py", query_params={"experiment": st.session_state["launched"][2]})


def as_text(spec: Mapping[str, Any]) -> None:
    """The YAML and the command that runs it."""
    with notices.shown():
        text, file = files.spec_text(spec), f"{spec['name']}.yaml"
        st.subheader("The same without this page", anchor=False)
        st.code(f"python -m workbench run {file}", language="bash", wrap_lines=True)
        st.code(text, language="yaml", wrap_lines=True)
        st.download_button(f"Download {file}", text, file, "application/yaml", icon=":material/download:", key="build.yaml")
