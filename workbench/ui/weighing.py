"""Trade-offs: two figures against each other, what to do with the chosen methods, and all figures side by side."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from workbench import compare
from workbench.figures import axes, front, many
from workbench.figures.axes import Axis
from workbench.services import comparison, experiments, files, seeding, tradeoffs
from workbench.services.comparison import Comparison
from workbench.ui import address, measuring, notices, plots, rankings, tables, words

PICK = "compare.pick"
OFFERS = {
    "latency": ("Latency has not been measured for {n} of these runs.", "Measure latency"),
    "forgetting": ("Forgetting has not been measured for {n} of these runs.", "Measure forgetting"),
}


def draw(found: Comparison, metric: str) -> None:
    """The front of two figures with its actions, where each method stands, and parallel coordinates."""
    wide = tradeoffs.widened(found)
    x, y = _axes(wide, metric)
    for one in tradeoffs.missing(wide, (x.name, y.name)):
        text, label = OFFERS[one.analysis]
        measuring.offer(one.analysis, one.runs, text.format(n=len(one.runs)), label)
    columns = ["run_id", "state", *(front.column(wide.runs, one) for one in (x, y))]
    held = wide.runs.reindex(columns=columns).to_json()
    standing = _standing(held, x.name, y.name, x.better, y.better, wide)
    if standing.dropna(subset=["x", "y"]).empty:
        notices.empty(f"No method has both {words.title(x.short)} and {words.title(y.short)} yet.")
        return
    plots.choose(front.front(wide.runs, standing, x, y), "compare.front", _picked)
    st.caption(
        "Faint dots are runs, strong markers means with 95 % crosses; a ring marks the front, which nobody beats in both. "
        "Click, box or lasso methods to go on with them."
    )
    _chosen(wide, standing)
    tables.show(rankings.standings(standing, x, y), "Where each method stands", columns=rankings.standing_columns(x, y))
    st.subheader("All figures of every run", anchor=False)
    figures = [axes.axis(name) for name in (*tradeoffs.MEASURED, *tradeoffs.ANALYSED)]
    plots.show(many.parallel(wide.runs, figures, _axis(metric, wide)), "compare.parallel")
    st.caption(
        "Up is better on every axis. A faint line is a run, a strong one the mean of a method; click a name to hide or show it."
    )


@st.cache_data(max_entries=64, show_spinner="Weighing the methods…")
def _standing(held: str, x: str, y: str, x_better: str, y_better: str, _wide: Comparison) -> pd.DataFrame:
    """The front of these runs and values; its bootstrap is done once."""
    return comparison.front(_wide, x, y, x_better, y_better)


def _axes(wide: Comparison, metric: str) -> tuple[Axis, Axis]:
    known = {name: _axis(name, wide) for name in tradeoffs.choices(wide)}
    left, right = st.columns(2)
    with left:
        y = address.one(st.selectbox, "compare", "y", "Up", list(known), metric, format_func=lambda n: known[n].short)
    with right:
        rest = [name for name in known if name != y]
        first = "trainable_params" if y != "trainable_params" else metric
        x = address.one(st.selectbox, "compare", "x", "Across", rest, first, format_func=lambda n: known[n].short)
    return known[x], known[y]


def _axis(name: str, wide: Comparison) -> Axis:
    better = compare.higher_is_better(name) if name in wide.metrics else None
    return axes.axis(name, wide.higher if better is None else better)


def _picked(points: list[Any]) -> None:
    """Labels of the chosen points; nothing chosen clears the choice."""
    st.session_state[PICK] = list(dict.fromkeys(point[0] for point in points))


def _chosen(wide: Comparison, standing: pd.DataFrame) -> None:
    labels = list(standing["label"])
    with st.container(horizontal=True, vertical_alignment="bottom"):
        picked = address.several(st.multiselect, "compare", "pick", "Chosen methods", labels, placeholder="none yet", width=560)
        with st.popover("Export", icon=":material/ios_share:", disabled=not picked):
            st.caption("Each run has an adapter of its own.")
            for row in wide.rows:
                if row["label"] in picked and row["state"] == "finished":
                    score = words.score(row["metrics"].get(wide.metric))
                    text = notices.plain(f"{row['label']}, seed {row['seed']} · {score}")
                    notices.link("adapters", text, ":material/extension:", adapter=row["run_id"])
        with st.popover("Run more seeds of these", icon=":material/casino:", disabled=not picked):
            if picked:
                _more_seeds(wide, picked)


def _more_seeds(wide: Comparison, picked: Sequence[str]) -> None:
    """The spec is shown before anything is queued."""
    count = st.number_input(
        "How many more", 1, 50, _wanted(wide, picked), key="compare.seeds", help="At first what should settle a pair among them."
    )
    with notices.shown():
        specs = seeding.more_seeds(wide.rows, picked, int(count))
        for spec in specs:
            st.code(files.spec_text(spec), language="yaml", height=200)
        runs = sum(len(spec["methods"]) * len(spec["seeds"]) for spec in specs)
        seconds = seeding.expected_seconds(wide.rows, picked, int(count))
        said = f", about {words.duration(seconds)} of training as measured so far" if seconds is not None else ""
        st.caption(f"{runs} runs{said}. They join this comparison as they finish.")
        if st.button(f"Queue {runs} runs", type="primary", key="compare.queue", icon=":material/play_arrow:"):
            with st.spinner("Queueing…"):
                st.session_state["compare.more"] = [experiments.ask_submit(spec)["experiment"] for spec in specs]
            st.rerun()


def _wanted(wide: Comparison, picked: Sequence[str]) -> int:
    """The fewest that should settle a pair among the chosen methods, at most 20; 2 where that is not known."""
    pairs = wide.pairs
    own = pairs[pairs["a"].isin(picked) & pairs["b"].isin(picked)] if len(picked) > 1 else pairs
    wanted = [int(n) for n in own["more_seeds"].dropna()] if len(own) else []
    return min(*wanted, 20) if wanted and len(picked) > 1 else 2
