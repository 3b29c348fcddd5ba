"""The quality of each label: a dot per run, the mean, and its interval over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.figures import style, words
from workbench.figures.bounds import bounds, complete, interval

ROW = 34  # pixels of one label


def by_label(runs: pd.DataFrame, table: pd.DataFrame, metric: str, higher: bool = True) -> go.Figure:
    """One line per label, the best mean on top.

    Args:
        runs: one row per run: label, seed, metrics.<metric>; optionally run_id.
        table: one row per label: label, n, <metric> and `<metric>.ci_low|high`.
        metric: name of the test metric.
        higher: whether more is better.
    """
    means = complete(table, metric).sort_values(metric, ascending=higher)  # Plotly draws upwards
    labels = list(means["label"]) if len(means) else []
    colours, symbols = style.colours(labels), style.symbols(labels)
    dots = complete(runs, f"metrics.{metric}")
    drawn = [_mean(one, metric, colours[one["label"]], symbols[one["label"]]) for one in means.to_dict("records")]
    figure = go.Figure([_runs(dots, metric, [colours[label] for label in dots["label"]]), *drawn] if drawn else [])
    figure.update_layout(
        style.layout(words.title(metric) + " (test)", "", height=90 + ROW * max(len(labels), 3), showlegend=False)
    )
    figure.update_yaxes(
        type="category", categoryarray=[style.plain(n) for n in labels], categoryorder="array", gridcolor=style.FAINT
    )
    ends = [(one.get(f"{metric}.ci_low"), one.get(f"{metric}.ci_high")) for one in means.to_dict("records")]
    if reach := bounds(dots[f"metrics.{metric}"] if len(dots) else [], ends):
        figure.update_xaxes(range=reach)
    return style.described(figure, _told(means, metric))


def _runs(dots: pd.DataFrame, metric: str, colours: Sequence[str]) -> go.Scatter:
    """Every run in one trace: a browser draws a few large traces much faster than many small ones."""
    values, title = list(dots[f"metrics.{metric}"]), words.title(metric)
    names = [style.plain(label) for label in dots["label"]]
    return go.Scatter(
        x=values,
        y=names,
        mode="markers",
        marker={"color": list(colours), "size": 7, "opacity": 0.6},
        name="runs",
        hovertext=[f"{n}, seed {s}<br>{title} {words.score(v)}" for n, s, v in zip(names, dots["seed"], values)],
        hoverinfo="text",
    )


def _mean(one: Mapping[str, Any], metric: str, colour: str, symbol: str) -> go.Scatter:
    low, high = one.get(f"{metric}.ci_low"), one.get(f"{metric}.ci_high")
    return go.Scatter(
        x=[one[metric]],
        y=[style.plain(one["label"])],
        mode="markers",
        marker={"color": colour, "size": 12, "symbol": symbol, "line": {"width": 1, "color": "white"}},
        error_x=interval(low, one[metric], high, colour),
        name=style.plain(one["label"]),
        hovertext=[f"{style.plain(one['label'])}<br>{words.title(metric)} {said(one, metric)}"],
        hoverinfo="text",
    )


def said(one: Mapping[str, Any], metric: str) -> str:
    """One mean in words: `0.812, 0.790 to 0.834 over 3 seeds`, or `0.812, one seed, no interval`."""
    low, high, n = one.get(f"{metric}.ci_low"), one.get(f"{metric}.ci_high"), int(one.get("n") or 0)
    if words.missing(one.get(metric)):
        return "no finished run"
    if words.missing(low) or words.missing(high):
        return f"{words.score(one[metric])}, {'one seed' if n == 1 else f'{n} seeds'}, no interval"
    return f"{words.score(one[metric])}, {words.score(low)} to {words.score(high)} over {n} seeds"


def headline(table: pd.DataFrame, pairs: pd.DataFrame, metric: str, higher: bool = True) -> str:
    """What the comparison says in one or two sentences: the best mean, and from whom it can be told apart.

    Args:
        table: as for `by_label`.
        pairs: columns a, b, n, verdict of the same metric; one common seed speaks about two trained adapters only.
        metric, higher: the quality.
    """
    means = complete(table, metric).sort_values(metric, ascending=not higher, kind="stable").to_dict("records")
    if not means:
        return "No run has finished yet."
    best = means[0]["label"]
    first = f"{best} has the {'highest' if higher else 'lowest'} mean {words.title(metric).lower()}: {said(means[0], metric)}."
    if len(means) == 1:
        return first
    own = [(row["b"] if row["a"] == best else row["a"], row) for row in pairs.to_dict("records") if best in (row["a"], row["b"])]
    won = [(other, row["n"]) for other, row in own if row["verdict"] == ("better" if row["a"] == best else "worse")]
    beaten, once = [other for other, n in won if n > 1], [other for other, n in won if n == 1]
    level = [other for other, row in own if row["verdict"] == "cannot tell"]
    parts = [f"It is really better than {words.listed(beaten)}." if beaten else ""]
    parts += [
        f"On the one seed they share it is better than {words.listed(once)}, which is about these adapters only." if once else ""
    ]
    parts += [f"It cannot be told apart from {words.listed(level)}." if level else ""]
    return " ".join(filter(None, [first, *parts]))


def _told(means: pd.DataFrame, metric: str) -> str:
    best: Sequence[Mapping[str, Any]] = means.to_dict("records")[::-1]
    if not best:
        return f"{words.title(metric)} of each method: nothing is finished yet."
    parts = [f"{one['label']} {said(one, metric)}" for one in best[:6]]
    rest = f"; and {len(best) - 6} more" if len(best) > 6 else ""
    return f"{words.title(metric)} on the test split by method, best first: {'; '.join(parts)}{rest}."
