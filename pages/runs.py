"""Runs: the queue with live progress; cancel, retry and delete."""

import streamlit as st

from workbench.ui import notices, queueing
from workbench.ui.boot import boot

boot("Runs")
st.title("Runs", anchor=False)
with notices.shown():
    queueing.live(queueing.filters())
