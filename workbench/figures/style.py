"""What all figures share: colours with symbols and dashes beside them, axes, text that is never markup, and the description."""

import hashlib
from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

PALETTE = ("#2f7fc1", "#e08a00", "#129a74", "#c46a9c", "#d4572a", "#4fb0e0", "#8a7fd0", "#7a8791", "#b0405f", "#5f9e9e")
"""Told apart with any colour vision, and readable on white and on dark (after Okabe and Ito, and Tol)."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down", "pentagon", "x", "hexagram")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
INK, FAINT = "#7d8794", "rgba(125,135,148,0.25)"
BETTER, WORSE = PALETTE[0], PALETTE[1]  # blue and orange: told apart with any colour vision; a sign always stands beside them
MOST_NAMED = 12  # labels that a legend can hold


def colours(labels: Iterable[str]) -> dict[str, str]:
    """A colour for each label; a label keeps its own wherever it appears, unless another one took it first."""
    wanted = sorted(set(labels))
    taken: dict[str, int] = {}
    for label in wanted:
        first = int(hashlib.sha256(label.encode()).hexdigest(), 16) % len(PALETTE)
        used = set(taken.values())
        free = [(first + i) % len(PALETTE) for i in range(len(PALETTE)) if (first + i) % len(PALETTE) not in used]
        taken[label] = free[0] if free else first
    return {label: PALETTE[index] for label, index in taken.items()}


def symbols(labels: Iterable[str]) -> dict[str, str]:
    """A marker for each label, so that colour is never the only difference."""
    return {label: SYMBOLS[i % len(SYMBOLS)] for i, label in enumerate(sorted(set(labels)))}


def dashes(labels: Iterable[str]) -> dict[str, str]:
    """A line for each label, for the same reason."""
    return {label: DASHES[i % len(DASHES)] for i, label in enumerate(sorted(set(labels)))}


def faint(colour: str, strength: float = 0.16) -> str:
    """A colour of the palette, see-through."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{strength})"


def plain(text: Any) -> str:
    """Text as Plotly shows it: names are never read as its markup."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


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


def described(figure: go.Figure, alt: str) -> go.Figure:
    """The figure with its description for people who do not see it."""
    return figure.update_layout(meta={"alt": alt})


def alt(figure: go.Figure) -> str:
    """The description of a figure made here."""
    return str((figure.layout.meta or {}).get("alt", ""))
