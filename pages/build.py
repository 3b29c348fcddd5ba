"""Build: model, data, methods and seeds, as a form or as YAML, beside the live plan; launches the experiment."""

import streamlit as st

from workbench.services import catalogue
from workbench.ui import building, notices, planning, starting
from workbench.ui.boot import boot

boot("Build")
st.title("Build an experiment", anchor=False)
spec, usable = None, False
with notices.shown():
    found = building.known(catalogue.code_hash())
    mode = starting.begin(found)
    form, side = st.columns([11, 9], gap="large")
    with form, notices.shown():
        if mode == "Form":
            name, task, model = building.base()
            st.subheader("Data", anchor=False)
            source, usable = building.source(task, model)
            st.subheader("Methods", anchor=False)
            entries = building.methods(task, model, source)
            st.subheader("Training", anchor=False)
            given, seeds = building.training()
            spec = building.spec(name, model, task["key"], source, entries, given, seeds, building.running())
        else:
            spec, usable = starting.written(), True
    with side:
        if spec is not None:
            with st.container(border=True):
                ready = planning.plan(spec, usable)
                planning.launch(spec, ready)
            planning.as_text(spec)
