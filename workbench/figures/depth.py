"""Where an adapter moved the model: depth down, role across, one picture per method."""

import math
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures import style, words
from workbench.figures.bounds import complete

ACROSS = 4  # pictures in one line
DECADES = 3  # below this share of the largest change nothing is told apart
SCALE = [[0, "rgba(47,127,193,0.10)"], [1, "rgba(47,127,193,0.95)"]]


def movement(rows: pd.DataFrame, kind: str) -> go.Figure:
    """The mean over seeds of how far each site moved.

    Args:
        rows: label, seed, depth (-1 = outside the blocks), role, value, kind.
        kind: `weight` (relative norm of the change) or `activation` (relative change of the outputs).
    """
    own = rows[rows["kind"] == kind] if len(rows) else rows
    labels = list(dict.fromkeys(own["label"])) if len(own) else []
    roles = sorted(dict.fromkeys(own["role"])) if len(own) else []
    depths = sorted(dict.fromkeys(int(d) for d in own["depth"])) if len(own) else []
    across = min(len(labels), ACROSS) or 1
    figure = make_subplots(
        rows=max(math.ceil(len(labels) / across), 1), cols=across, subplot_titles=[style.plain(n) for n in labels] or None,
        shared_yaxes=True, shared_xaxes=True, horizontal_spacing=0.03, vertical_spacing=0.12,
    )  # fmt: skip
    colours = _colours(own)
    for i, label in enumerate(labels):
        heat = _heat(own[own["label"] == label], label, roles, depths, colours["cmin"])
        figure.add_trace(heat.update(texttemplate="%{text}" if across < 3 else None), i // across + 1, i % across + 1)
    what = "Change of the weights" if kind == "weight" else "Change of the outputs"
    lines = math.ceil(len(labels) / across) or 1
    height, margin = 120 + lines * (70 + 26 * max(len(depths), 4)), {"l": 10, "r": 10, "t": 40, "b": 10}
    figure.update_layout(style.layout("", "", height=height, margin=margin), coloraxis=colours)
    figure.update_yaxes(type="category", showgrid=False, automargin=True)
    figure.update_xaxes(type="category", showgrid=False, automargin=True, tickangle=-35)
    figure.update_yaxes(title={"text": "depth"}, col=1)
    return style.described(figure, _told(own, what))


def _colours(own: pd.DataFrame) -> dict:
    """Colour by decades: a bias that starts near zero moves a hundred times as far as a matrix, relative to where it was."""
    held = [float(v) for v in complete(own, "value")["value"] if v > 0]
    most = math.log10(max(held)) if held else 0.0
    least = max(min(math.log10(min(held)), most - 0.5), most - DECADES) if held else -1.0
    powers = range(math.ceil(least), math.floor(most) + 1)
    bar = {"title": {"text": "relative"}, "thickness": 12, "tickvals": list(powers), "ticktext": [f"{10.0**p:g}" for p in powers]}
    return {"colorscale": SCALE, "cmin": least, "cmax": most, "colorbar": bar}


def _heat(own: pd.DataFrame, label: str, roles: Sequence[str], depths: Sequence[int], least: float) -> go.Heatmap:
    mean = own.assign(value=pd.to_numeric(own["value"], errors="coerce")).groupby(["depth", "role"])["value"].mean()
    held = [[mean.get((depth, role)) for role in roles] for depth in depths]
    z = [[None if words.missing(v) else math.log10(v) if v > 0 else least for v in row] for row in held]
    text = [["" if words.missing(v) else f"{v:.2g}" for v in row] for row in held]
    return go.Heatmap(
        z=z, x=list(roles), y=[_depth(d) for d in depths], text=text,
        coloraxis="coloraxis", xgap=1, ygap=1, name=style.plain(label), hoverongaps=False,
        hovertemplate="depth %{y}<br>%{x}<br>moved by %{text}",
    )  # fmt: skip


def _depth(depth: int) -> str:
    return "outside" if depth < 0 else str(depth)


def _told(own: pd.DataFrame, what: str) -> str:
    if not len(own):
        return f"{what} by depth and role: nothing yet."
    most = own.loc[pd.to_numeric(own["value"], errors="coerce").idxmax()]
    where = f"{most['role']} at depth {_depth(int(most['depth']))}"
    return f"{what} by depth and role for {own['label'].nunique()} methods; the largest is {most['label']} in {where}."
