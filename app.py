"""The app: its pages and the door before them. Start it with `make app`."""

import streamlit as st

from workbench.ui import doors
from workbench.ui.boot import boot

PAGES = {
    "Experiment": {"build": "construction", "runs": "list_alt", "run": "show_chart", "compare": "scatter_plot"},
    "Library": {"adapters": "extension", "playground": "science", "methods": "menu_book", "papers": "article"},
}  # section -> page -> icon


def home() -> None:
    """The address without a path leads to Build."""
    st.switch_page("pages/build.py")


def page(name: str, icon: str) -> st.Page:
    """One screen under its own address."""
    return st.Page(f"pages/{name}.py", title=name.capitalize(), icon=f":material/{icon}:", url_path=name)


if __name__ == "__main__":  # Streamlit runs this file for every visit, ...
    boot()
    first = [st.Page(home, title="Home", default=True, visibility="hidden")]
    st.navigation({"": first} | {section: [page(*one) for one in some.items()] for section, some in PAGES.items()}).run()
else:  # ... and imports it once, to start the server
    app = st.App(__file__, middleware=doors.opened())
