"""Figures: frames or plain rows in, a Plotly figure out; nothing here reads files or draws widgets."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.ui import theme, words


def parameters_quality(runs: pd.DataFrame, table: pd.DataFrame, metric: str) -> go.Figure:
    """Trainable parameters (log axis; 0 has a place of its own at the left) against a test metric.

    Args:
        runs: one row per run: label, seed, trainable_params, metrics.<metric>.
        table: one row per label: label, n, the means and `<metric>.ci_low|high`.
        metric: name of the test metric.
    """
    spots = pd.concat(
        [runs.get("trainable_params", pd.Series(dtype=float)), table.get("trainable_params", pd.Series(dtype=float))]
    )
    known = sorted({float(v) for v in spots.dropna() if v > 0})
    low, high = (known[0], known[-1]) if known else (1.0, 10.0)
    zero = 10 ** (math.floor(math.log10(low)) - 1)
    figure = _scatter(runs, table, "trainable_params", metric, lambda v: zero if v <= 0 else v, words.count, "")
    decades = [10**p for p in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    ticks = [*([zero] if (spots == 0).any() else []), *decades]
    text = ["0" if t == zero else words.short(t) for t in ticks]
    edges = [math.log10(min(ticks)) - 0.25, math.log10(max(high, decades[-1] if len(decades) > 1 else high)) + 0.15]
    figure.update_xaxes(
        type="log", tickvals=ticks, ticktext=text, range=edges, title="Trainable parameters, without the head (log)"
    )
    return figure


def memory_quality(runs: pd.DataFrame, table: pd.DataFrame, metric: str) -> go.Figure:
    """Peak memory in MB against a test metric; arguments as for `parameters_quality`."""
    figure = _scatter(runs, table, "peak_memory_bytes", metric, lambda v: v / 1e6, words.size, " MB")
    figure.update_xaxes(title="Peak memory of the training (MB)", rangemode="normal")
    return figure


def _scatter(runs: pd.DataFrame, table: pd.DataFrame, x: str, metric: str, place: Any, say: Any, unit: str) -> go.Figure:
    """A faint dot per run, a mean marker with its interval per label; rows without both figures are left out."""
    y = f"metrics.{metric}"
    figure = go.Figure()
    labels = list(table["label"]) if "label" in table else []
    colours, symbols = theme.colours(labels), theme.symbols(labels)
    dots = _complete(runs, x, y)
    for label in labels:
        own = dots[dots["label"] == label]
        mean = _complete(table[table["label"] == label], x, metric)
        if len(own):
            hover = [
                f"{label}, seed {s}<br>{words.title(metric)} {words.score(q)}<br>{say(v)}"
                for s, v, q in zip(own["seed"], own[x], own[y])
            ]
            marker = {"color": colours[label], "size": 7, "opacity": 0.4, "symbol": symbols[label]}
            figure.add_trace(_points([place(v) for v in own[x]], list(own[y]), hover, marker, label, False))
        if len(mean):
            one = mean.iloc[0]
            marker = {"color": colours[label], "size": 12, "symbol": symbols[label], "line": {"width": 1, "color": "white"}}
            trace = _points([place(one[x])], [one[metric]], [_said(one, metric, say(one[x]))], marker, label, True)
            figure.add_trace(trace.update(error_y=_bars(one, metric, colours[label])))
    figure.update_layout(theme.layout(x, words.title(metric) + " (test)"))
    if bounds := _bounds(dots.get(y), table, metric):
        figure.update_yaxes(range=bounds)
    return figure


def _points(x: list[float], y: list[float], hover: list[str], marker: Mapping[str, Any], label: str, legend: bool) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        mode="markers",
        marker=dict(marker),
        name=label,
        legendgroup=label,
        showlegend=legend,
        hovertext=hover,
        hoverinfo="text",
    )


def _said(one: pd.Series, metric: str, x: str) -> str:
    spread = _interval(one, metric)
    tail = f" ({words.score(spread[0])} to {words.score(spread[1])})" if spread else ""
    return f"{one['label']}, mean of {int(one['n'])}<br>{words.title(metric)} {words.score(one[metric])}{tail}<br>{x}"


def _interval(one: pd.Series, metric: str) -> tuple[float, float] | None:
    low, high = one.get(f"{metric}.ci_low"), one.get(f"{metric}.ci_high")
    return None if words.missing(low) or words.missing(high) else (float(low), float(high))


def _bars(one: pd.Series, metric: str, colour: str) -> dict[str, Any] | None:
    spread = _interval(one, metric)
    if spread is None:
        return None
    up, down = spread[1] - one[metric], one[metric] - spread[0]
    return {
        "type": "data",
        "symmetric": False,
        "array": [up],
        "arrayminus": [down],
        "color": colour,
        "thickness": 1.5,
        "width": 5,
    }


def _bounds(dots: pd.Series | None, table: pd.DataFrame, metric: str) -> list[float] | None:
    """A range that shows every run; a wide interval of few seeds may leave it, else it would flatten everything."""
    if dots is None or dots.empty:
        return None
    low, high = float(dots.min()), float(dots.max())
    room = max(high - low, abs(high) * 0.02, 1e-6)
    ends = [e for _, one in table.iterrows() if (e := _interval(one, metric))]
    least = max(min([low, *(e[0] for e in ends)]), low - room)
    most = min(max([high, *(e[1] for e in ends)]), high + room)
    return [least - 0.1 * room, most + 0.1 * room]


def _complete(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Rows in which all these columns hold finite numbers."""
    if any(c not in frame.columns for c in columns):
        return pd.DataFrame(columns=[*frame.columns, *(c for c in columns if c not in frame.columns)])
    numbers = frame[list(columns)].apply(pd.to_numeric, errors="coerce").replace([math.inf, -math.inf], math.nan)
    return frame[numbers.notna().all(axis=1)]


def bands(curves: pd.DataFrame, what: str) -> go.Figure:
    """Learning curves of several methods: the mean over seeds, its interval as a band.

    Args:
        curves: label, step, mean, ci_low, ci_high, n.
        what: name of the figure on the vertical axis.
    """
    figure = go.Figure()
    colours = theme.colours(curves["label"]) if "label" in curves else {}
    shown = _complete(curves, "step", "mean")
    for label, own in shown.groupby("label", sort=False):
        wide = _complete(own, "ci_low", "ci_high")
        if len(wide) > 1:
            edge = {"x": [*wide["step"], *wide["step"][::-1]], "y": [*wide["ci_high"], *wide["ci_low"][::-1]]}
            fill = {
                "fill": "toself",
                "fillcolor": _faint(colours[label]),
                "line": {"width": 0},
                "mode": "lines",
                "hoverinfo": "skip",
            }
            figure.add_trace(go.Scatter(**edge, **fill, legendgroup=label, showlegend=False, name=label))
        hover = [
            f"{label}<br>step {s}<br>{what} {words.score(m)}, n = {int(n)}" for s, m, n in zip(own["step"], own["mean"], own["n"])
        ]
        line = {"color": colours[label], "width": 2}
        mode = "lines+markers" if len(own) < 40 else "lines"
        figure.add_trace(
            go.Scatter(
                x=own["step"],
                y=own["mean"],
                mode=mode,
                line=line,
                name=label,
                legendgroup=label,
                hovertext=hover,
                hoverinfo="text",
            )
        )
    figure.update_layout(theme.layout("Optimizer step", what))
    if bounds := _bounds(shown.get("mean"), shown.assign(n=0).rename(columns={"ci_low": ".ci_low", "ci_high": ".ci_high"}), ""):
        figure.update_yaxes(range=bounds)
    return figure


def _faint(colour: str, strength: float = 0.16) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{strength})"


def live_loss(steps: Sequence[Mapping[str, Any]], label: str) -> go.Figure:
    """Training loss of one run: each step faint, a running mean over a tenth of the run strong.

    Args:
        steps: [{step, loss}], null losses are left out.
        label: for the colour.
    """
    held = [(s["step"], s["loss"]) for s in steps if not words.missing(s.get("loss"))]
    colour = theme.colours([label])[label]
    x, y = [s for s, _ in held], pd.Series([v for _, v in held], dtype=float)
    smooth = y.rolling(max(1, len(y) // 10), min_periods=1).mean()
    figure = go.Figure()
    hover = [f"step {s}<br>loss {v:.4f}" for s, v in held]
    each = {
        "name": "each step",
        "mode": "lines+markers",
        "marker": {"size": 3},
        "line": {"color": _faint(colour, 0.45), "width": 1},
    }
    figure.add_trace(go.Scatter(x=x, y=list(y), **each, hovertext=hover, hoverinfo="text"))
    figure.add_trace(
        go.Scatter(x=x, y=list(smooth), mode="lines", name="running mean", line={"color": colour, "width": 2.5}, hoverinfo="skip")
    )
    figure.update_layout(theme.layout("Optimizer step", "Training loss (nats)", height=300))
    return figure


def live_metric(evaluations: Sequence[Mapping[str, Any]], metric: str, label: str) -> go.Figure:
    """A validation metric of one run over its steps; the test value as a star.

    Args:
        evaluations: [{step, split, metrics}].
        metric: which of the metrics.
        label: for the colour.
    """
    figure = go.Figure()
    colour = theme.colours([label])[label]
    for split, mode, size, symbol in (("validation", "lines+markers", 7, "circle"), ("test", "markers", 13, "star")):
        own = [(e["step"], e["metrics"].get(metric)) for e in evaluations if e["split"] == split]
        held = sorted((s, v) for s, v in own if not words.missing(v))
        if held:
            hover = [f"{split}, step {s}<br>{words.title(metric)} {words.score(v)}" for s, v in held]
            marker = {"size": size, "symbol": symbol, "color": colour}
            x, y = [s for s, _ in held], [v for _, v in held]
            figure.add_trace(
                go.Scatter(
                    x=x, y=y, mode=mode, name=split, marker=marker, line={"color": colour}, hovertext=hover, hoverinfo="text"
                )
            )
    figure.update_layout(theme.layout("Optimizer step", words.title(metric), height=300))
    return figure


def confusion(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> go.Figure:
    """Counts of test rows: true label down, prediction across."""
    heat = go.Heatmap(
        z=[list(row) for row in counts], x=list(labels), y=list(labels), showscale=False,
        colorscale=[[0, "rgba(47,127,193,0.05)"], [1, "rgba(47,127,193,0.95)"]],
        hovertemplate="true %{y}<br>predicted %{x}<br>%{z} rows<extra></extra>",
    )  # fmt: skip
    cells = [(a, b, c) for a, row in zip(labels, counts) for b, c in zip(labels, row) if c]
    half = max((c for _, _, c in cells), default=0) / 2  # the page's own colour shows through the weaker half
    font = {"color": ["white" if c > half else theme.INK for _, _, c in cells], "size": 12}
    said = [str(c) for _, _, c in cells]
    text = go.Scatter(
        x=[b for _, b, _ in cells], y=[a for a, _, _ in cells], text=said, mode="text", textfont=font, hoverinfo="skip"
    )
    figure = go.Figure([heat, text.update(showlegend=False)])
    figure.update_layout(theme.layout("Predicted", "True label", height=140 + 30 * max(len(labels), 4)))
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    figure.update_xaxes(type="category", showgrid=False, tickangle=-35)
    return figure


def balance(counts: Mapping[str, Mapping[str, int]]) -> go.Figure:
    """Rows of each label in each split, as stacked bars."""
    figure = go.Figure()
    labels = sorted(counts, key=lambda name: sum(counts[name].values()))
    for split, colour in zip(("train", "validation", "test"), theme.PALETTE):
        values = [counts[name].get(split, 0) for name in labels]
        figure.add_trace(
            go.Bar(y=labels, x=values, orientation="h", name=split, marker={"color": colour}, hovertemplate="%{y}<br>%{x} rows")
        )
    figure.update_layout(theme.layout("Rows", "", barmode="stack", height=110 + 20 * max(len(labels), 4)))
    figure.update_yaxes(type="category")
    return figure
