"""Build: model, data, methods and seeds beside the live plan; launches the experiment."""

import streamlit as st

from workbench.ui import building, notices, planning
from workbench.ui.boot import boot

boot("Build")
st.title("Build an experiment", anchor=False)
form, side = st.columns([11, 9], gap="large")
spec, usable = None, False
with form, notices.shown():
    name, task, model = building.base()
    st.subheader("Data", anchor=False)
    source, usable = building.source(task)
    st.subheader("Methods", anchor=False)
    entries = building.methods(task)
    st.subheader("Training", anchor=False)
    given, seeds = building.training()
    spec = building.spec(name, model, task["key"], source, entries, given, seeds)
with side:
    if spec is not None:
        with st.container(border=True):
            ready = planning.plan(spec, usable)
            planning.launch(spec, ready)
        planning.as_text(spec)
