"""The figures that analyses describe as plain data, drawn."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from workbench.figures import style, words


def drawn(figure: Mapping[str, Any]) -> go.Figure:
    """A figure of an analysis.

    Args:
        figure: {type: bars | lines | points, title, x, y, series: [{name, x, y, low, high, text}], reference, log_x,
            log_y} or {type: heat, title, x, y, columns, rows, values, value}; low and high are ends of intervals or null.
    """
    made = _heat(figure) if figure["type"] == "heat" else _series(figure)
    return style.described(made, f"{figure['title']}: {figure['y']} by {figure['x']}.")


def _series(figure: Mapping[str, Any]) -> go.Figure:
    names = [one["name"] for one in figure["series"]]
    colours, symbols, dashes = style.colours(names), style.symbols(names), style.dashes(names)
    made = go.Figure()
    for one in figure["series"]:
        name, colour = style.plain(one["name"]), colours[one["name"]]
        shared = {"x": _axis(one["x"]), "y": one["y"], "name": name, "hovertext": _hover(one), "hoverinfo": "text"}
        shared["error_y"] = _bars(one)
        if figure["type"] == "bars":
            made.add_trace(go.Bar(**shared, marker={"color": colour}))
            continue
        marker = {"color": colour, "symbol": symbols[one["name"]], "size": 9}
        mode = "markers" if figure["type"] == "points" else "lines+markers"
        made.add_trace(go.Scatter(**shared, mode=mode, marker=marker, line={"color": colour, "dash": dashes[one["name"]]}))
    made.update_layout(style.layout(figure["x"], figure["y"], showlegend=1 < len(names) <= style.MOST_NAMED))
    if figure.get("reference") is not None:
        made.add_hline(y=figure["reference"], line={"color": style.INK, "dash": "dash", "width": 1.5})
    made.update_xaxes(type="log" if figure.get("log_x") else "-")
    made.update_yaxes(type="log" if figure.get("log_y") else "-")
    return made


def _axis(values: list[Any]) -> list[Any]:
    return [style.plain(v) if isinstance(v, str) else v for v in values]


def _hover(one: Mapping[str, Any]) -> list[str]:
    texts = one.get("text") or [None] * len(one["x"])
    lows, highs = one.get("low") or [None] * len(one["x"]), one.get("high") or [None] * len(one["x"])
    said = []
    for x, y, low, high, text in zip(one["x"], one["y"], lows, highs, texts):
        spread = "" if words.missing(low) or words.missing(high) else f" ({low:.4g} to {high:.4g})"
        value = words.DASH if words.missing(y) else f"{y:.4g}{spread}"
        said.append("<br>".join(filter(None, [style.plain(one["name"]), f"{style.plain(x)}: {value}", style.plain(text or "")])))
    return said


def _bars(one: Mapping[str, Any]) -> dict[str, Any] | None:
    if not one.get("low") or not one.get("high"):
        return None
    known = [not any(map(words.missing, ends)) for ends in zip(one["y"], one["low"], one["high"])]
    up = [h - y if k else 0 for y, h, k in zip(one["y"], one["high"], known)]
    down = [y - low if k else 0 for y, low, k in zip(one["y"], one["low"], known)]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": style.INK, "thickness": 1.5, "width": 4}


def _heat(figure: Mapping[str, Any]) -> go.Figure:
    heat = go.Heatmap(
        z=figure["values"], x=_axis(figure["columns"]), y=_axis([str(r) for r in figure["rows"]]), xgap=1, ygap=1,
        colorscale=[[0, "rgba(47,127,193,0.04)"], [1, "rgba(47,127,193,0.95)"]], colorbar={"title": {"text": figure["value"]}},
        hovertemplate="%{y}, %{x}<br>%{z:.3g}<extra></extra>",
    )  # fmt: skip
    made = go.Figure(heat)
    made.update_layout(style.layout(figure["x"], figure["y"], height=160 + 26 * max(len(figure["rows"]), 4)))
    made.update_xaxes(type="category", showgrid=False, tickangle=-35)
    made.update_yaxes(type="category", showgrid=False)
    return made
