"""The right side of the Build screen: the live plan, checks on request, the spec as text, and the launch."""

import time
from collections.abc import Mapping
from typing import Any

import streamlit as st

from workbench.core.spec import parse_spec
from workbench.services import catalogue, experiments, files, matching, plans
from workbench.ui import filling, notices, tables, words

AGAIN_AFTER = 15.0  # seconds in which a second click launches nothing
EQUAL = {"parameters": "trainable parameters", "seconds": "training time"}
Spec = Mapping[str, Any]


@st.cache_data(ttl="2m", max_entries=64, show_spinner="Planning…")
def _planned(text: str, spec: Spec) -> dict[str, Any]:
    return plans.ask(spec)


def plan(spec: Spec, usable: bool) -> bool:
    """Draw the plan; True when nothing blocks the launch."""
    st.subheader("Plan", anchor=False)
    if not usable or not spec["methods"]:
        st.info("Choose data and at least one method to see what it will take.", icon=":material/info:")
        return False
    with notices.shown():
        found = _planned(files.spec_text(spec), spec)
        _tiles(found, len(parse_spec(spec).seeds))
        tables.show(tables.plan(found["methods"]), "What each method will take", columns=_columns())
        for one in found["methods"]:
            for sentence in one["problems"]:
                notices.problem(f"{one['label']}: {sentence}")
        for sentence in found["warnings"]:
            st.warning(notices.plain(sentence), icon=":material/warning:")
        device = f"{found['device']['kind']}, {found['device']['threads']} threads, {found['device']['precision']}"
        st.caption(notices.plain(" ".join([f"Predicted for {device}.", found["calibration"]["sentence"], *found["notes"]])))
        _checks(spec, [one["label"] for one in found["methods"] if not one["problems"]])
        return not found["problems"]
    return False


def _tiles(found: Mapping[str, Any], seeds: int) -> None:
    runs = len(found["methods"]) * seeds
    seconds = [tables.training_seconds(one) for one in found["methods"]]
    total = None if None in seconds else sum(seconds) * seeds
    tiles = st.columns(3)
    tiles[0].metric("Runs", runs)
    tiles[1].metric("Training rows", words.count(found["rows"].get("train")))
    tiles[2].metric(
        "Training time", words.duration(total), help="All runs one after the other, without loading and evaluation. Predicted."
    )


def _columns() -> dict[str, Any]:
    column = st.column_config
    return {
        "Method": column.TextColumn(width=88),
        "Trainable": column.NumberColumn(
            format="localized", width=72, help="Scalars that differ from the base after training, without the head"
        ),
        "Share": column.NumberColumn(format="%.2g %%", width=52, help="Trainable scalars in percent of the base model's"),
        "Memory": column.TextColumn(width=64, help="Predicted peak memory of the training"),
        "Time": column.TextColumn(width=58, help="Predicted training time of one run, all rates of a search together"),
        "Rate": column.TextColumn(width=50, help="Learning rate: yours, or the method's default"),
    }


def _checks(spec: Spec, labels: list[str]) -> None:
    """Two questions that cost something: three real steps, and settings that make the methods equal."""
    left, right = st.columns(2)
    with left.popover("Dry run", icon=":material/timer:", width="stretch", disabled=not labels):
        label = st.selectbox("Train three steps of", labels, key="build_dry")
        if st.button("Measure", key="build_measure") and label:
            with notices.shown(), st.spinner("Training three steps in a process of its own…"):
                _measured(plans.ask_dry_run(spec, label))
    with right.popover("Make equal", icon=":material/balance:", width="stretch", disabled=not labels):
        by = st.segmented_control("What should be equal", list(EQUAL), default="parameters", required=True, key="build_by",
                                  format_func=EQUAL.__getitem__)  # fmt: skip
        to = st.selectbox("As much as", labels, key="build_to")
        if st.button("Solve", key="build_solve") and to:
            with notices.shown(), st.spinner("Solving each method's size…"):
                st.session_state["build_matched"] = matching.ask_matched(spec, to, by or "parameters")
        if found := st.session_state.get("build_matched"):
            _matched(found)


def _measured(found: Mapping[str, Any]) -> None:
    told, took = found["predicted"], found["measured"]
    lines = [
        f"Peak memory: **{words.size(took['peak_memory_bytes'])}** measured, {words.size(told['peak_memory_bytes'])} predicted.",
        f"Training: **{words.duration(took['train_seconds'])}** from {found['steps']} timed steps, "
        f"{words.duration(told['train_seconds'])} predicted.",
    ]
    st.markdown("  \n".join(lines))
    for note in found["notes"]:
        st.caption(notices.plain(note))


def _matched(found: Mapping[str, Any]) -> None:
    for one in found["entries"]:
        size = words.count(one["trainable_params"]) if one["trainable_params"] is not None else words.DASH
        what = f"{one['field']} = {one['value']}" if one["field"] else one["reason"] or "as it is"
        st.caption(notices.plain(f"{one['label']}: {what}; {size} parameters, {words.duration(one['train_seconds'])}"))
    for note in found["notes"]:
        st.caption(notices.plain(note))
    st.button("Use these settings", key="build_use", type="primary", on_click=_take, args=(found["spec"],))


def _take(spec: Spec) -> None:
    """The matched spec becomes the form's."""
    beyond = filling.fill(spec, catalogue.everything())
    st.session_state["build_note"] = f"Made equal. {beyond + ' It is shown as YAML.' if beyond else ''}"
    del st.session_state["build_matched"]


def launch(spec: Spec, ready: bool) -> None:
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


def as_text(spec: Spec) -> None:
    """The YAML and the command that runs it."""
    with notices.shown():
        text, file = files.spec_text(spec), f"{spec['name']}.yaml"
        st.session_state["build_written"] = text
        st.subheader("The same without this page", anchor=False)
        st.code(f"python -m workbench run {file}", language="bash", wrap_lines=True)
        st.code(text, language="yaml", wrap_lines=True)
        st.download_button(f"Download {file}", text, file, "application/yaml", icon=":material/download:", key="build.yaml")
