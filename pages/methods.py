"""Methods: the catalogue with equations, papers and capabilities."""

import streamlit as st

from workbench.services import catalogue
from workbench.ui import building, listing, notices
from workbench.ui.boot import boot

boot("Methods")
st.title("Methods", anchor=False)
with notices.shown():
    entries = building.known(catalogue.code_hash())["methods"]
    shown = listing.filtered(entries)
    st.caption(f"{len(shown)} of {len(entries)} methods and presets; tick one for its card.")
    chosen = listing.table(shown)
    if chosen is not None:
        listing.card(chosen)
