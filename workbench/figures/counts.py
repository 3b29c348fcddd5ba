"""Counted rows: confusions of a classifier, and the balance of labels."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from workbench.figures import style, words


def confusion(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> go.Figure:
    """Counts of test rows: true label down, prediction across."""
    names = [style.plain(n) for n in labels]
    heat = go.Heatmap(
        z=[list(row) for row in counts], x=names, y=names, showscale=False,
        colorscale=[[0, "rgba(47,127,193,0.05)"], [1, "rgba(47,127,193,0.95)"]],
        hovertemplate="true %{y}<br>predicted %{x}<br>%{z} rows<extra></extra>",
    )  # fmt: skip
    cells = [(a, b, c) for a, row in zip(names, counts) for b, c in zip(names, row) if c]
    half = max((c for _, _, c in cells), default=0) / 2  # the page's own colour shows through the weaker half
    weak, strong = [cell for cell in cells if cell[2] <= half], [cell for cell in cells if cell[2] > half]
    figure = go.Figure([heat, _said(weak), _said(strong).update(textfont={"color": "white"})])
    figure.update_layout(style.layout("Predicted", "True label", height=140 + 30 * max(len(labels), 4)))
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    figure.update_xaxes(type="category", showgrid=False, tickangle=-35)
    return style.described(figure, _told(labels, counts))


def _said(cells: Sequence[tuple[str, str, int]]) -> go.Scatter:
    """Counts as text; without a colour of its own it takes the page's."""
    down, across, text = ([cell[k] for cell in cells] for k in range(3))
    return go.Scatter(x=across, y=down, text=[str(c) for c in text], mode="text", hoverinfo="skip", showlegend=False)


def _told(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    wrong = sorted(
        ((c, a, b) for a, row in zip(labels, counts) for b, c in zip(labels, row) if c and a != b), key=lambda one: -one[0]
    )
    right, rows = sum(row[i] for i, row in enumerate(counts)), sum(map(sum, counts))
    worst = f"; the commonest confusion: {wrong[0][1]} taken for {wrong[0][2]}, {words.count(wrong[0][0])} rows" if wrong else ""
    return f"Confusion of {len(labels)} labels: {words.count(right)} of {words.count(rows)} rows are right{worst}."


def balance(counts: Mapping[str, Mapping[str, int]]) -> go.Figure:
    """Rows of each label in each split, as stacked bars."""
    figure = go.Figure()
    labels = sorted(counts, key=lambda name: sum(counts[name].values()))
    names = [style.plain(n) for n in labels]
    patterns = ("", "/", "x")
    for split, colour, pattern in zip(("train", "validation", "test"), style.PALETTE, patterns):
        values = [counts[name].get(split, 0) for name in labels]
        marker = {"color": colour, "pattern": {"shape": pattern, "solidity": 0.25}}
        figure.add_trace(go.Bar(y=names, x=values, orientation="h", name=split, marker=marker, hovertemplate="%{y}<br>%{x} rows"))
    figure.update_layout(style.layout("Rows", "", barmode="stack", height=110 + 20 * max(len(labels), 4)))
    figure.update_yaxes(type="category")
    sizes = [f"{name} {words.count(sum(counts[name].values()))}" for name in reversed(labels)]
    return style.described(figure, f"Rows of each label: {words.listed(sizes)}.")
