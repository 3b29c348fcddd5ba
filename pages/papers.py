"""Papers: the source list, what works of it here, and the claim that each shows in miniature."""

import streamlit as st

from workbench.services import papers
from workbench.ui import citing, notices
from workbench.ui.boot import boot

boot("Papers")
st.title("Papers", anchor=False)
with notices.shown():
    entries = papers.papers()
    shown = citing.filtered(entries)
    works = sum(one["status"] == "works" for one in entries)
    st.caption(f"{len(shown)} of {len(entries)} papers, of which {works} work here; tick one for its card.")
    chosen = citing.table(shown)
    if chosen is not None:
        citing.card(chosen)
