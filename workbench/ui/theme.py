"""Colours, figure settings and the little style that Streamlit's own theme cannot say."""

import hashlib
from collections.abc import Iterable
from typing import Any

import streamlit as st

PALETTE = ("#2f7fc1", "#e08a00", "#129a74", "#c46a9c", "#d4572a", "#4fb0e0", "#8a7fd0", "#7a8791", "#b0405f", "#5f9e9e")
"""Told apart with any colour vision, and readable on white and on dark (after Okabe and Ito, and Tol)."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
INK, FAINT = "#7d8794", "rgba(125,135,148,0.25)"
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


def colours(labels: Iterable[str]) -> dict[str, str]:
    """A colour for each label; a label keeps its own wherever it appears, unless another one took it first."""
    wanted = sorted(set(labels))
    taken: dict[str, int] = {}
    for label in wanted:
        first = int(hashlib.sha256(label.encode()).hexdigest(), 16) % len(PALETTE)
        free = [(first + i) % len(PALETTE) for i in range(len(PALETTE)) if (first + i) % len(PALETTE) not in taken.values()]
        taken[label] = free[0] if free else first
    return {label: PALETTE[index] for label, index in taken.items()}


def symbols(labels: Iterable[str]) -> dict[str, str]:
    """A marker for each label, so that colour is never the only difference."""
    return {label: SYMBOLS[i % len(SYMBOLS)] for i, label in enumerate(sorted(set(labels)))}


def layout(x: str, y: str, **more: Any) -> dict[str, Any]:
    """What every figure has: axis titles, no background of its own, a legend above."""
    axis = {"gridcolor": FAINT, "zeroline": False, "linecolor": FAINT, "automargin": True}
    return {
        "xaxis": {**axis, "title": {"text": x}},
        "yaxis": {**axis, "title": {"text": y}},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 10, "r": 10, "t": 30, "b": 10},
        "height": 360,
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0},
        "hoverlabel": {"align": "left"},
        **more,
    }
