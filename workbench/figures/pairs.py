"""Is it really better? Differences of two labels with their intervals, and the verdicts as a matrix."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.figures import style, words
from workbench.figures.bounds import complete

MOST = 40  # rows that a forest plot can hold
LOOKS = {
    "better": (style.BETTER, "triangle-right", "▲"),
    "worse": (style.WORSE, "triangle-left", "▼"),
    "cannot tell": (style.INK, "circle", "≈"),
}

MIRRORED = {"better": "worse", "worse": "better", "cannot tell": "cannot tell"}
SIGNED = {"better": 1.0, "cannot tell": 0.0, "worse": -1.0}


def scale(unit: str) -> float:
    """What a difference is multiplied by: metrics between 0 and 1 are told in points."""
    return 100.0 if unit == "points" else 1.0


def forest(pairs: pd.DataFrame, runs: pd.DataFrame, unit: str = "", higher: bool = True) -> go.Figure:
    """Each pair's difference with its interval beside the line of no difference, the largest difference on top.

    Args:
        pairs: columns a, b, metric, n, difference, ci_low, ci_high, verdict, p_holm, sentence; missing numbers are NaN. Pairs
            without a difference are left out; beyond 40 those closest to zero are.
        runs: one row per run: label, seed, metrics.<metric>; each common seed's difference is drawn as a faint dot.
        unit: `points` for metrics that are told in hundredths, else empty.
        higher: whether more is better.
    """
    known = pairs[pd.to_numeric(pairs["difference"], errors="coerce").notna()] if len(pairs) else pairs
    shown = known.loc[known["difference"].abs().sort_values(ascending=False).index[:MOST]] if len(known) else known
    rows = shown.sort_values("difference").to_dict("records") if len(shown) else []
    times = scale(unit)
    figure = go.Figure(_seeds(rows, runs, times))
    for verdict, (colour, symbol, _) in LOOKS.items():
        own = [row for row in rows if row["verdict"] == verdict]
        figure.add_trace(_differences(own, verdict, colour, symbol, times))
    what = words.title(str(rows[0]["metric"])) if rows else "Difference"
    better = "right of the line the first one is better" if higher else "left of the line the first one is better"
    title = f"Difference in {what[:1].lower() + what[1:]}{f' ({unit})' if unit else ''}; {better}"
    figure.update_layout(style.layout(title, "", height=110 + 30 * max(len(rows), 3)))
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=[_name(row) for row in rows])
    figure.add_vline(x=0, line={"color": style.INK, "width": 1.5, "dash": "dash"})
    return style.described(figure, _told(rows, len(known)))


def _seeds(rows: list[dict[str, Any]], runs: pd.DataFrame, times: float) -> go.Scatter:
    x, y, hover = [], [], []
    column = f"metrics.{rows[0]['metric']}" if rows else ""
    known: dict[str, dict[int, float]] = {}
    for label, seed, value in complete(runs, "seed", column)[["label", "seed", column]].itertuples(index=False) if rows else ():
        known.setdefault(label, {})[int(seed)] = value
    for row in rows:
        a, b = known.get(row["a"], {}), known.get(row["b"], {})
        for seed in sorted(a.keys() & b.keys()):
            x.append(times * (a[seed] - b[seed]))
            y.append(_name(row))
            hover.append(f"{_name(row)}, seed {seed}<br>{words.signed(x[-1], 2 if times > 1 else 4)}")
    marker = {"color": style.INK, "size": 6, "opacity": 0.6}
    return go.Scatter(x=x, y=y, mode="markers", name="one seed", marker=marker, hovertext=hover, hoverinfo="text")


def _name(row: Mapping[str, Any]) -> str:
    return style.plain(f"{row['a']} − {row['b']}")


def _differences(rows: list[dict[str, Any]], verdict: str, colour: str, symbol: str, times: float) -> go.Scatter:
    spread = [not (words.missing(r["ci_low"]) or words.missing(r["ci_high"])) for r in rows]
    up = [times * (r["ci_high"] - r["difference"]) if known else 0 for r, known in zip(rows, spread)]
    down = [times * (r["difference"] - r["ci_low"]) if known else 0 for r, known in zip(rows, spread)]
    sides = {"type": "data", "symmetric": False, "array": up, "arrayminus": down}
    return go.Scatter(
        x=[times * r["difference"] for r in rows],
        y=[_name(r) for r in rows],
        mode="markers",
        name=verdict,
        marker={"color": colour, "size": 11, "symbol": [symbol if known else f"{symbol}-open" for known in spread]},
        error_x={**sides, "color": colour, "thickness": 1.5, "width": 4},
        customdata=[[r["a"], r["b"]] for r in rows],
        hovertext=["<br>".join(_folded(style.plain(r["sentence"]))) for r in rows],
        hoverinfo="text",
    )


def _folded(text: str, width: int = 70) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _told(rows: list[dict[str, Any]], known: int) -> str:
    if not rows:
        return "Differences between methods: there is no pair to compare yet."
    settled = [row for row in rows if row["verdict"] != "cannot tell"]
    rest = f" The {len(rows)} largest of {known} are drawn." if known > len(rows) else ""
    first = f" {settled[-1]['sentence']}" if settled else ""
    return f"Differences of {known} pairs with 95 % intervals; {len(settled)} of those drawn are settled.{first}{rest}"


def verdicts(pairs: pd.DataFrame, unit: str = "") -> go.Figure:
    """A matrix of all labels: in row a and column b stands a − b, with a sign that says whether a is better."""
    labels = list(dict.fromkeys([*pairs["a"], *pairs["b"]])) if len(pairs) else []
    place, times = {label: i for i, label in enumerate(labels)}, scale(unit)
    z: list[list[float | None]] = [[None] * len(labels) for _ in labels]
    text, hover = [[""] * len(labels) for _ in labels], [[""] * len(labels) for _ in labels]
    for row in (row for row in pairs.to_dict("records") if not words.missing(row["difference"])):
        mirrored = {**row, "a": row["b"], "b": row["a"], "difference": -row["difference"], "verdict": MIRRORED[row["verdict"]]}
        for one in (row, mirrored):
            i, j = place[one["a"]], place[one["b"]]
            z[i][j] = SIGNED[one["verdict"]]
            text[i][j] = f"{LOOKS[one['verdict']][2]} {words.signed(times * one['difference'], 1 if unit else 3)}"
            hover[i][j] = "<br>".join(_folded(style.plain(one["sentence"])))
    figure = go.Figure(_cells([style.plain(n) for n in labels], z, text, hover))
    figure.update_layout(style.layout("row minus column", "", height=130 + 34 * max(len(labels), 3), showlegend=False))
    figure.update_xaxes(type="category", showgrid=False, side="top")
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
    open_ = int((pairs["verdict"] == "cannot tell").sum()) if len(pairs) else 0
    said = f"Verdict of every pair of {len(labels)} methods: {len(pairs) - open_} settled, {open_} not."
    return style.described(figure, said)


def _cells(names: list[str], z: list[list[Any]], text: list[list[str]], hover: list[list[str]]) -> list[Any]:
    """Faint colours with the text as a trace of its own, which takes the page's colour."""
    colours = [[0, style.faint(style.WORSE, 0.35)], [0.5, style.faint(style.INK, 0.10)], [1, style.faint(style.BETTER, 0.35)]]
    heat = go.Heatmap(
        z=z, x=names, y=names, hovertext=hover, hoverinfo="text", zmin=-1, zmax=1, colorscale=colours, showscale=False,
        xgap=2, ygap=2,
    )  # fmt: skip
    cells = [(names[i], names[j], said) for i, line in enumerate(text) for j, said in enumerate(line) if said]
    if len(names) > style.MOST_NAMED:
        cells = [(i, j, said[0]) for i, j, said in cells if said[0] != LOOKS["cannot tell"][2]]
    across, down, said = ([cell[k] for cell in cells] for k in (1, 0, 2))
    return [heat, go.Scatter(x=across, y=down, text=said, mode="text", hoverinfo="skip")]
