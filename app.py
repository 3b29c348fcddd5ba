"""The app: its pages. Start it with `make app`."""

import streamlit as st

from workbench.ui.boot import boot

boot()


def home() -> None:
    """The address without a path leads to Build."""
    st.switch_page("pages/build.py")


pages = {
    "": [st.Page(home, title="Home", default=True, visibility="hidden")],
    "Experiment": [
        st.Page("pages/build.py", title="Build", icon=":material/construction:", url_path="build"),
        st.Page("pages/runs.py", title="Runs", icon=":material/list_alt:", url_path="runs"),
        st.Page("pages/run.py", title="Run", icon=":material/show_chart:", url_path="run"),
        st.Page("pages/compare.py", title="Compare", icon=":material/scatter_plot:", url_path="compare"),
    ],
    "Library": [
        st.Page("pages/adapters.py", title="Adapters", icon=":material/extension:", url_path="adapters"),
        st.Page("pages/playground.py", title="Playground", icon=":material/science:", url_path="playground"),
        st.Page("pages/methods.py", title="Methods", icon=":material/menu_book:", url_path="methods"),
    ],
}
st.navigation(pages).run()
