"""Parallel coordinates: one line per run through all its figures, and the mean of each method."""

import math
from collections.abc import Iterable, Sequence

import pandas as pd
import plotly.graph_objects as go

from workbench.figures import axes, style, words
from workbench.figures.axes import Axis
from workbench.figures.bounds import complete


def parallel(runs: pd.DataFrame, figures: Sequence[Axis], quality: Axis) -> go.Figure:
    """Every figure has an axis of its own on which up is better; a faint line is a run, a strong one the mean of a method.

    Drawn as plain lines: unlike Plotly's own parallel coordinates they say what they are when pointed at, and need no WebGL.

    Args:
        runs: one row per run: label, seed, the figures as columns, and metrics.<quality>.
        figures: those that no run has are left out, and so are runs that lack one of the others.
        quality: the last axis.
    """
    column = {one.name: one.name for one in figures} | {quality.name: f"metrics.{quality.name}"}
    held = [one for one in (*figures, quality) if len(complete(runs, column[one.name]))]
    needed = ["label", "seed", *(column[one.name] for one in held)]
    rows = complete(runs, *needed[2:]).reindex(columns=needed)
    if held[-1:] != [quality] or not len(rows):
        return style.described(go.Figure(layout=style.layout("", "")), "Parallel coordinates: nothing is finished yet.")
    places = pd.DataFrame({one.name: _places(rows[column[one.name]], one) for one in held}, index=rows.index)
    labels = list(dict.fromkeys(rows["label"]))
    figure = go.Figure([*_lines(rows, places, held, column, labels), _ticks(rows, held, column)])
    heads = [f"<b>{one.short}</b>" if one is quality else one.short for one in held]
    figure.update_layout(style.layout("", "", height=420, showlegend=len(labels) <= style.MOST_NAMED))
    figure.update_xaxes(tickvals=list(range(len(held))), ticktext=heads, side="bottom", range=[-0.5, len(held) - 0.5])
    figure.update_xaxes(gridcolor=style.INK, showline=False)
    figure.update_yaxes(visible=False, range=[-0.2, 1.2])
    names = words.listed([one.short for one in held], 8)
    return style.described(figure, f"Parallel coordinates of {len(rows)} runs of {len(labels)} methods, up is better: {names}.")


def _places(values: Iterable[float], one: Axis) -> list[float]:
    """Values between 0 (worst) and 1 (best) on their axis; equal values lie in the middle."""
    spots = [float(v) for v in values]
    if one.log:
        zero = math.log10(axes.floor(spots))
        spots = [math.log10(v) if v > 0 else zero for v in spots]
    low, high = min(spots), max(spots)
    share = [(v - low) / (high - low) if high > low else 0.5 for v in spots]
    return share if one.better == "higher" else [1 - v for v in share]


def _lines(
    rows: pd.DataFrame, places: pd.DataFrame, held: Sequence[Axis], column: dict[str, str], labels: Sequence[str]
) -> list[go.Scatter]:
    colours, dashes, symbols = style.colours(labels), style.dashes(labels), style.symbols(labels)
    across, drawn = [*range(len(held)), None], []
    for label in labels:
        own, name = rows[rows["label"] == label], style.plain(label)
        y = [v for index in own.index for v in (*places.loc[index], None)]
        hover = [
            text
            for record in own.to_dict("records")
            for text in (*(f"{name}, seed {record['seed']}<br>{a.short} {a.say(record[column[a.name]])}" for a in held), "")
        ]
        faint = {"color": style.faint(colours[label], 0.45), "width": 1, "dash": dashes[label]}
        shared = {"legendgroup": name, "name": name, "hoverinfo": "text"}
        drawn.append(go.Scatter(x=across * len(own), y=y, mode="lines", line=faint, hovertext=hover, showlegend=False, **shared))
        means = [f"{name}, mean of {len(own)}<br>{a.short} {a.say(own[column[a.name]].mean())}" for a in held]
        strong = {"color": colours[label], "width": 2.5, "dash": dashes[label]}
        marker = {"symbol": symbols[label], "size": 8}
        middle = list(places.loc[own.index].mean())
        trace = go.Scatter(x=across[:-1], y=middle, mode="lines+markers", line=strong, marker=marker, hovertext=means, **shared)
        drawn.append(trace)
    return drawn


def _ticks(rows: pd.DataFrame, held: Sequence[Axis], column: dict[str, str]) -> go.Scatter:
    """The best and the worst value at the ends of each axis."""
    x, y, text = [], [], []
    for i, one in enumerate(held):
        ends = sorted([float(rows[column[one.name]].min()), float(rows[column[one.name]].max())], reverse=one.better == "lower")
        x += [i, i]
        y += [0.0, 1.0]
        text += [f"<br>{one.say(ends[0])}", f"{one.say(ends[1])}<br>"]  # a line of room to what is drawn there
    places = ["bottom center", "top center"] * len(held)
    return go.Scatter(x=x, y=y, text=text, mode="text", textposition=places, hoverinfo="skip", showlegend=False)
