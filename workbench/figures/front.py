"""Two figures against each other: runs as dots, means with error crosses, and the front that nobody beats."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.figures import axes, style, words
from workbench.figures.axes import Axis
from workbench.figures.bounds import bounds, complete, interval


def front(runs: pd.DataFrame, found: pd.DataFrame, x: Axis, y: Axis) -> go.Figure:
    """The trade-off of two figures.

    Args:
        runs: one row per run: label, seed, optionally run_id, and the two figures as columns (a test metric as `metrics.<name>`).
        found: one row per label: label, n, x, x_low, x_high, y, y_low, y_high, pareto, probability, over.
        x, y: the two axes.
    """
    known = complete(found, "x", "y")
    labels = list(known["label"])
    dots = complete(runs, column(runs, x), column(runs, y))
    dots = dots[dots["label"].isin(labels)]
    colours, symbols = style.colours(labels), style.symbols(labels)
    zeros = {
        one: axes.floor(v / one.unit for v in [*dots[column(runs, one)], *known[side]]) for side, one in (("x", x), ("y", y))
    }
    looks = [(colours[label], symbols[label]) for label in dots["label"]]
    means = [_mean(one, x, y, zeros, colours[one["label"]], symbols[one["label"]]) for one in known.to_dict("records")]
    figure = go.Figure([_stairs(known, x, y, zeros), _dots(dots, x, y, zeros, looks), *means])
    figure.update_layout(
        style.layout(x.title, y.title, height=430, showlegend=len(labels) <= style.MOST_NAMED, dragmode="select")
    )
    for side, one in (("x", x), ("y", y)):
        _range(figure, one, [v / one.unit for v in [*dots[column(runs, one)], *known[side]]], known, side, zeros[one])
    return style.described(figure, _told(known, x, y))


def column(runs: pd.DataFrame, one: Axis) -> str:
    """Where a frame of runs holds a figure: test metrics stand under `metrics.<name>`."""
    return f"metrics.{one.name}" if f"metrics.{one.name}" in runs.columns else one.name


def _range(figure: go.Figure, one: Axis, values: list[float], known: pd.DataFrame, side: str, zero: float) -> None:
    if one.log:
        axes.decades(figure, values, zero, vertical=side == "y")
        return
    ends = [(low / one.unit, high / one.unit) for low, high in zip(known[f"{side}_low"], known[f"{side}_high"])]
    if reach := bounds(values, ends):
        update = figure.update_xaxes if side == "x" else figure.update_yaxes
        update(range=reach)


def _stairs(known: pd.DataFrame, x: Axis, y: Axis, zeros: Mapping[Axis, float]) -> go.Scatter:
    """The front as stairs: what lies behind them is beaten by somebody in both figures."""
    own = known[known["pareto"].astype(bool)].sort_values(["x", "y"]) if len(known) else known
    shape = "hv" if x.better == "lower" else "vh"
    return go.Scatter(
        x=axes.place(own["x"], x, zeros[x]),
        y=axes.place(own["y"], y, zeros[y]),
        mode="lines",
        line={"color": style.INK, "dash": "dot", "width": 1.5, "shape": shape},
        name="front",
        hoverinfo="skip",
        showlegend=len(own) > 1,
    )


def _dots(dots: pd.DataFrame, x: Axis, y: Axis, zeros: Mapping[Axis, float], looks: list[tuple[str, str]]) -> go.Scatter:
    """Every run in one trace: a browser draws a few large traces much faster than many small ones."""
    across, up = dots[column(dots, x)], dots[column(dots, y)]
    hover = [
        f"{style.plain(label)}, seed {s}<br>{y.short} {y.say(b)}<br>{x.short} {x.say(a)}"
        for label, s, a, b in zip(dots["label"], dots["seed"], across, up)
    ]
    runs = dots["run_id"] if "run_id" in dots else [""] * len(dots)
    return go.Scatter(
        x=axes.place(across, x, zeros[x]),
        y=axes.place(up, y, zeros[y]),
        mode="markers",
        marker={"color": [c for c, _ in looks], "size": 7, "opacity": 0.55, "symbol": [s for _, s in looks]},
        name="runs",
        showlegend=False,
        customdata=[[label, run] for label, run in zip(dots["label"], runs)],
        hovertext=hover,
        hoverinfo="text",
    )


def _mean(one: Mapping[str, Any], x: Axis, y: Axis, zeros: Mapping[Axis, float], colour: str, symbol: str) -> go.Scatter:
    ring = {"width": 3, "color": style.INK} if one["pareto"] else {"width": 1, "color": "white"}
    bars = {
        f"error_{side}": None if axis.log and one[f"{side}_low"] <= 0 else
        interval(one[f"{side}_low"] / axis.unit, one[side] / axis.unit, one[f"{side}_high"] / axis.unit, colour)
        for side, axis in (("x", x), ("y", y))
    }  # fmt: skip
    return go.Scatter(
        x=axes.place([one["x"]], x, zeros[x]),
        y=axes.place([one["y"]], y, zeros[y]),
        mode="markers",
        marker={"color": colour, "size": 13, "symbol": symbol, "line": ring},
        name=style.plain(one["label"]),
        customdata=[[one["label"], ""]],
        hovertext=[_said(one, x, y)],
        hoverinfo="text",
        **bars,
    )


def _said(one: Mapping[str, Any], x: Axis, y: Axis) -> str:
    lines = [f"<b>{style.plain(one['label'])}</b>, mean of {int(one['n'])}"]
    for side, axis in (("y", y), ("x", x)):
        low, high = one[f"{side}_low"], one[f"{side}_high"]
        spread = "" if words.missing(low) or words.missing(high) else f" ({axis.say(low)} to {axis.say(high)})"
        lines.append(f"{axis.short} {axis.say(one[side])}{spread}")
    return "<br>".join([*lines, standing(one)])


def standing(one: Mapping[str, Any]) -> str:
    """Where a label stands, in words; what was resampled is said, because one seed says little."""
    place = "on the front" if one["pareto"] else "behind the front"
    if words.missing(one["probability"]):
        return f"{place}; no probability without several seeds or stored predictions"
    over = {"rows": "test rows only: one seed"}.get(str(one["over"]), one["over"])
    return f"{place}; on it in {words.share(one['probability'])} of the draws (over {over})"


def _told(known: pd.DataFrame, x: Axis, y: Axis) -> str:
    own = [f"{one['label']} ({x.say(one['x'])}, {y.say(one['y'])})" for one in known.to_dict("records") if one["pareto"]]
    return f"{y.short} against {x.short.lower()} of {len(known)} methods; on the front: {words.listed(own) or 'nobody yet'}."
