"""Asking for an analysis where a figure is missing, and waiting for it."""

from collections.abc import Sequence

import streamlit as st

from workbench.services import analyses, queue, results
from workbench.ui import notices

ASKED = "compare.asked"


def offer(analysis: str, runs: Sequence[str], text: str, label: str) -> None:
    """Say what is missing and queue the analysis that measures it.

    Args:
        analysis: its key.
        runs: run ids it is to look at.
        text: one sentence about what is missing.
        label: of the button.
    """
    busy = [job for job, about in st.session_state.get(ASKED, {}).items() if about == analysis and job in waiting()]
    with st.container(border=True, horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        if busy:
            st.markdown(
                f":material/hourglass_top: Job {busy[0]} is measuring it; the figure appears here by itself.", width="content"
            )
            notices.link("runs", "Watch the queue", ":material/list_alt:")
            return
        st.markdown(f":gray[{notices.plain(text)}]", width="content")
        if st.button(label, key=f"compare.ask.{analysis}", icon=":material/play_arrow:"):
            with notices.shown(), st.spinner("Asking…"):
                job = analyses.ask_analyse(analysis, list(runs))
                st.session_state.setdefault(ASKED, {})[job] = analysis
                st.rerun()


def waiting() -> list[int]:
    """Analyses asked for here that are not over yet."""
    return [job for job in st.session_state.get(ASKED, {}) if results.state(job) in queue.LIVE]
