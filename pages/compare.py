"""Compare: one or several experiments as a table and four charts."""

import streamlit as st

from workbench.ui import comparing, notices
from workbench.ui.boot import boot

boot("Compare")
st.title("Compare", anchor=False)
with notices.shown():
    chosen = comparing.pick()
    if chosen:
        comparing.draw(chosen)
