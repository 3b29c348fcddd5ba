"""Run: one run's curves, figures, predictions, settings, environment and log."""

import streamlit as st

from workbench.ui import notices, running
from workbench.ui.boot import boot

boot("Run")
st.title("Run", anchor=False)
with notices.shown():
    run_id = running.pick()
    if run_id:
        running.live(run_id)
        running.links(run_id)
        running.details(run_id)
