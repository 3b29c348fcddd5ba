"""Compare: experiments or chosen runs, as sections from the overview to single mistakes; the URL holds every choice."""

import streamlit as st

from workbench.ui import comparing, notices
from workbench.ui.boot import boot

boot("Compare")
top = st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center")
top.title("Compare", anchor=False, width="content")
with notices.shown():
    experiments, runs = comparing.pick()
    if experiments:
        comparing.draw(experiments, runs, top)
