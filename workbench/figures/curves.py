"""Curves over the steps of training: of several methods with bands, and of one run while it goes on."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.figures import style, words
from workbench.figures.bounds import bounds, complete

MOST = 100  # steps of one label; more cannot be seen
MARKED = 15  # points that are marked one by one


def bands(curves: pd.DataFrame, what: str) -> go.Figure:
    """Learning curves of several methods: the mean over seeds, its interval as a band.

    Args:
        curves: label, step, mean, ci_low, ci_high, n.
        what: name of the figure on the vertical axis.
    """
    figure = go.Figure()
    labels = list(dict.fromkeys(curves["label"])) if "label" in curves else []
    colours, dashes, symbols = style.colours(labels), style.dashes(labels), style.symbols(labels)
    shown = complete(curves, "step", "mean")
    for label, own in shown.groupby("label", sort=False):
        name = style.plain(label)
        own = _thinned(own)
        wide = complete(own, "ci_low", "ci_high")
        if len(wide) > 1:
            figure.add_trace(_band(wide, name, colours[label]))
        hover = [
            f"{name}<br>step {s}<br>{what} {words.score(m)}, n = {int(n)}" for s, m, n in zip(own["step"], own["mean"], own["n"])
        ]
        figure.add_trace(
            go.Scatter(
                x=own["step"],
                y=own["mean"],
                mode="lines+markers" if len(own) <= MARKED else "lines",
                line={"color": colours[label], "width": 2, "dash": dashes[label]},
                marker={"symbol": symbols[label], "size": 7},
                name=name,
                legendgroup=name,
                hovertext=hover,
                hoverinfo="text",
            )
        )
    figure.update_layout(style.layout("Optimizer step", what, showlegend=len(labels) <= style.MOST_NAMED))
    if reach := bounds(shown["mean"] if len(shown) else [], zip(shown["ci_low"], shown["ci_high"]) if len(shown) else []):
        figure.update_yaxes(range=reach)
    return style.described(figure, _told(shown, what))


def _thinned(own: pd.DataFrame) -> pd.DataFrame:
    """At most about 100 of a label's steps, the last one among them; nothing is averaged."""
    every = max(1, len(own) // MOST)
    return own.iloc[::-1].iloc[::every].iloc[::-1]


def _band(wide: pd.DataFrame, name: str, colour: str) -> go.Scatter:
    edge = {"x": [*wide["step"], *wide["step"][::-1]], "y": [*wide["ci_high"], *wide["ci_low"][::-1]]}
    look = {"fill": "toself", "fillcolor": style.faint(colour, 0.12), "line": {"width": 0}, "mode": "lines", "hoverinfo": "skip"}
    return go.Scatter(**edge, **look, legendgroup=name, showlegend=False, name=name)


def _told(shown: pd.DataFrame, what: str) -> str:
    if not len(shown):
        return f"{what} over the steps: nothing yet."
    last = shown.sort_values("step").groupby("label", sort=False).tail(1)
    parts = [f"{one['label']} {words.score(one['mean'])} at step {int(one['step'])}" for one in last.to_dict("records")]
    return f"{what} over the steps of training, the last values: {words.listed(parts)}."


def live_loss(steps: Sequence[Mapping[str, Any]], label: str) -> go.Figure:
    """Training loss of one run: each step faint, a running mean over a tenth of the run strong.

    Args:
        steps: [{step, loss}], null losses are left out.
        label: for the colour.
    """
    held = [(s["step"], s["loss"]) for s in steps if not words.missing(s.get("loss"))]
    colour = style.colours([label])[label]
    x, y = [s for s, _ in held], pd.Series([v for _, v in held], dtype=float)
    smooth = y.rolling(max(1, len(y) // 10), min_periods=1).mean()
    hover = [f"step {s}<br>loss {v:.4f}" for s, v in held]
    each = {"name": "each step", "mode": "lines+markers", "marker": {"size": 3}}
    figure = go.Figure(
        [
            go.Scatter(
                x=x, y=list(y), **each, line={"color": style.faint(colour, 0.45), "width": 1}, hovertext=hover, hoverinfo="text"
            ),
            go.Scatter(
                x=x, y=list(smooth), mode="lines", name="running mean", line={"color": colour, "width": 2.5}, hoverinfo="skip"
            ),
        ]
    )
    figure.update_layout(style.layout("Optimizer step", "Training loss (nats)", height=300))
    said = f"from {y.iloc[0]:.3g} to {y.iloc[-1]:.3g} over {len(y)} recorded steps" if len(y) else "nothing yet"
    return style.described(figure, f"Training loss of {label}: {said}.")


def live_metric(evaluations: Sequence[Mapping[str, Any]], metric: str, label: str) -> go.Figure:
    """A validation metric of one run over its steps; the test value as a star.

    Args:
        evaluations: [{step, split, metrics}].
        metric: which of the metrics.
        label: for the colour.
    """
    figure, parts = go.Figure(), []
    colour = style.colours([label])[label]
    for split, mode, size, symbol in (("validation", "lines+markers", 7, "circle"), ("test", "markers", 13, "star")):
        own = [(e["step"], e["metrics"].get(metric)) for e in evaluations if e["split"] == split]
        held = sorted((s, v) for s, v in own if not words.missing(v))
        if held:
            hover = [f"{split}, step {s}<br>{words.title(metric)} {words.score(v)}" for s, v in held]
            marker = {"size": size, "symbol": symbol, "color": colour}
            x, y = [s for s, _ in held], [v for _, v in held]
            parts.append(f"{split} {words.score(y[-1])}")
            trace = go.Scatter(x=x, y=y, mode=mode, name=split, marker=marker, line={"color": colour}, hovertext=hover)
            figure.add_trace(trace.update(hoverinfo="text"))
    figure.update_layout(style.layout("Optimizer step", words.title(metric), height=300))
    return style.described(figure, f"{words.title(metric)} of {label} over its steps: {', '.join(parts) or 'nothing yet'}.")
