"""Figures on a screen."""

from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from workbench.figures import style

STILL = {"displayModeBar": False}
CHOOSING = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "autoScale2d", "toImage"],
}


def show(figure: go.Figure, key: str) -> None:
    """Draw a figure with its description for screen readers."""
    st.plotly_chart(figure, key=key, config=STILL, alt=style.alt(figure) or None)


def choose(figure: go.Figure, key: str, chosen: Callable[[list[Any]], None]) -> None:
    """Draw a figure in which points can be clicked, boxed or lassoed.

    Args:
        figure: its points carry `customdata`.
        key: of the widget.
        chosen: called with the `customdata` of the points, before the page runs again; Plotly forgets the points whenever the
            figure changes, so the caller keeps what it needs.
    """

    def selected() -> None:
        points = st.session_state[key].selection.points
        chosen([point["customdata"] for point in points if point.get("customdata")])

    st.plotly_chart(figure, key=key, config=CHOOSING, alt=style.alt(figure) or None, on_select=selected)
