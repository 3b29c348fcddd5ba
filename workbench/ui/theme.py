"""The little style that Streamlit's own theme cannot say; the colours of figures are in `workbench.figures.style`."""

import streamlit as st

STATES = {
    "queued": "gray",
    "starting": "blue",
    "running": "blue",
    "paused": "orange",
    "finished": "green",
    "failed": "red",
    "cancelled": "orange",
}
CSS = """<style>
.stMainBlockContainer{padding:3rem 2.2rem 3rem;max-width:1500px}
[data-testid="stMetricValue"]{font-size:1.45rem}
[data-testid="stMetricLabel"] p{font-size:.82rem}
h1{font-size:1.9rem!important;padding-bottom:.7rem!important}
h3{font-size:1.15rem!important}
</style>"""


def style() -> None:
    """Less empty space above the page, smaller titles."""
    st.html(CSS)
