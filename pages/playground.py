"""Playground: the base and up to four adapters answer the same input side by side."""

import streamlit as st

from workbench.ui import notices, playing
from workbench.ui.boot import boot

boot("Playground")
st.title("Playground", anchor=False)
with notices.shown():
    chosen = playing.pick()
    if chosen:
        inputs, settings, pressed = playing.given(chosen)
        with notices.shown():
            playing.answers(chosen, inputs, settings, pressed)
        playing.on_a_file(chosen)
