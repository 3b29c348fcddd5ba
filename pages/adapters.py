"""Adapters: export and verify, predict on a file, combine, import."""

import streamlit as st

from workbench.services import adapters
from workbench.ui import notices, sharing, tables
from workbench.ui.boot import boot

boot("Adapters")
st.title("Adapters", anchor=False)
with notices.shown():
    known = adapters.adapters()
    if known:
        one = sharing.pick(known)
        sharing.facts(one)
        notices.link("playground", "Try it in the Playground", ":material/science:", adapter=one["reference"])
    else:
        notices.empty("There are no adapters yet; each finished run leaves one.", "build", "Build an experiment")
    export, predict, combine, take_in, every = st.tabs(["Export", "Predict", "Combine", "Import", "All adapters"])
    with export, notices.shown():
        if known:
            sharing.export(one)
        sharing.done()
    with predict:
        if known:
            sharing.predict(one)
        else:
            st.caption("Train or import an adapter first.")
    with combine, notices.shown():
        sharing.combine(known)
    with take_in:
        sharing.take_in()
    with every:
        tables.show(tables.adapters(known), "All adapters", height="content")
