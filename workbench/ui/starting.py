"""How the Build screen begins: the form or the YAML, empty or from an earlier experiment (`?clone=`) or a paper (`?paper=`)."""

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from workbench.core import safe_yaml
from workbench.core.errors import WorkbenchError
from workbench.core.spec import parse_spec
from workbench.services import clone, papers, results
from workbench.ui import filling, notices

MODES = ("Form", "YAML")
EXAMPLE = """name: my-experiment
model: bundled/minilm
task: text_classification
data: bundled/docstrings
methods: [lora, head_only]
seeds: [0, 1, 2]
"""


def begin(found: Mapping[str, Any]) -> str:
    """Draw the row above the form and load what was asked for; returns the mode in force."""
    _load(found)
    left, right = st.columns([11, 9], gap="large", vertical_alignment="bottom")
    with left:
        if st.session_state.get("build.mode") not in MODES:
            st.session_state["build.mode"] = MODES[0]
        mode = st.segmented_control(
            "Write it as", MODES, required=True, key="build.mode", label_visibility="collapsed", persist_state="session",
            on_change=_switched, args=(found,),
        )  # fmt: skip
    with right:
        _earlier()
    if note := st.session_state.get("build_note"):
        st.caption(notices.plain(note))
    return mode or MODES[0]


def _switched(found: Mapping[str, Any]) -> None:
    """Take what is written along to the other way of writing it; stay where the form cannot hold it."""
    st.session_state["build_note"] = ""
    if st.session_state["build.mode"] == "YAML":
        st.session_state["build.text"] = st.session_state.get("build_written", EXAMPLE)
        return
    text = st.session_state.get("build.text", EXAMPLE)
    try:
        beyond = filling.fill(safe_yaml.loads(text.encode(), "the spec"), found)
    except WorkbenchError as error:
        beyond = str(error)
    if beyond:
        st.session_state.update({"build.mode": "YAML", "build.text": text, "build_note": notices.capital(beyond)})


def _load(found: Mapping[str, Any]) -> None:
    """Fill the form once for each `?clone=` or `?paper=` that arrives; the address is then free for the person's changes."""
    for kind, read in STARTS.items():
        if asked := st.query_params.get(kind, ""):
            del st.query_params[kind]
            with notices.shown():
                beyond = filling.fill(read(asked), found)
                st.session_state["build_note"] = f"Filled from {asked}. {beyond + ' It is shown as YAML.' if beyond else ''}"


def _of_paper(key: str) -> dict[str, Any]:
    spec = papers.spec(key)
    if spec is None:
        raise WorkbenchError(f"the paper {key} takes several steps, which no form holds; run `python -m workbench paper {key}`.")
    return spec


STARTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "clone": lambda name: clone.clone(results.find_experiment(name)),
    "paper": _of_paper,
}
"""Part of the address -> the spec that it means."""


def _earlier() -> None:
    known = [one["experiment"] for one in results.experiments()[:200]]
    with st.popover("Start from an earlier experiment", icon=":material/content_copy:", width="stretch", disabled=not known):
        chosen = st.selectbox("Experiment", known, None, key="build_earlier", placeholder="newest first")
        if st.button("Fill the form", disabled=chosen is None, key="build_fill") and chosen:
            st.query_params["clone"] = chosen
            st.rerun()


def written() -> dict[str, Any]:
    """The YAML editor; returns its spec as a plain mapping.

    Raises:
        WorkbenchError: the first problem of the text.
    """
    if "build.text" not in st.session_state:
        st.session_state["build.text"] = EXAMPLE
    text = st.text_area("Spec", key="build.text", height=460, persist_state="session", label_visibility="collapsed")
    value = safe_yaml.loads((text or "").encode(), "the spec")
    parse_spec(value)
    return value
