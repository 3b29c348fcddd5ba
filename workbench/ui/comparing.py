"""The parts of the Compare screen."""

import streamlit as st

from workbench.services import comparison, results
from workbench.services.comparison import Comparison
from workbench.ui import charts, notices, tables, words

BAR = {"displayModeBar": False}


def pick() -> list[str]:
    """The experiments of `?experiment=` (it may be repeated), or those chosen; the newest at first."""
    known = results.experiments()
    if not known:
        notices.empty("There is nothing to compare yet.", "build", "Build an experiment")
        return []
    texts = {one["experiment"]: f"{one['experiment']} ({one['finished']} of {one['runs']} runs)" for one in known}
    asked = [results.find_experiment(one) for one in st.query_params.get_all("experiment")]
    start = asked or [next((one["experiment"] for one in known if one["finished"]), known[0]["experiment"])]
    chosen = st.multiselect("Experiments", list(texts), start, key=f"compare.pick.{len(asked)}", format_func=texts.__getitem__)
    if chosen != asked:
        st.query_params.from_dict({"experiment": chosen})
    return chosen


def draw(references: list[str]) -> None:
    """Table, scatter charts and learning curves."""
    found = comparison.comparison(references)
    for note in found.notes:
        st.info(notices.plain(note), icon=":material/info:")
    if not found.metrics:
        live = [row for row in found.rows if row["state"] in ("queued", "starting", "running")]
        text = "The runs are not finished yet." if live else "No run of this experiment finished."
        notices.empty(f"{text} Figures appear here as runs finish.", "runs", "Watch the runs")
        return
    options = [m for m in found.metrics if m != "loss"]
    metric, higher = found.metric, found.higher
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        if len(options) > 1:
            metric = (
                st.segmented_control(
                    "Quality", options, default=metric, required=True, format_func=words.title, key="compare.metric"
                )
                or metric
            )
        file = f"{references[0] if len(references) == 1 else 'comparison'}.csv"
        st.download_button(
            "Download CSV", lambda: tables.to_csv(found.rows), file, "text/csv", icon=":material/download:", key="compare.csv"
        )
    columns = tables.comparison_columns(found.metrics)
    tables.show(tables.comparison(found.table, found.metrics, metric), "One line per method", columns=columns)
    better = "Higher is better." if higher else "Lower is better."
    tail = better if metric == found.metric else ""
    st.caption(f"Means over finished runs on the test split, with 95 % t intervals over seeds. {tail}")
    _figures(found, metric)


def _figures(found: Comparison, metric: str) -> None:
    left, right = st.columns(2)
    with left:
        st.subheader("Parameters and quality", anchor=False)
        st.plotly_chart(charts.parameters_quality(found.runs, found.table, metric), key="compare.parameters", config=BAR)
    with right:
        st.subheader("Memory and quality", anchor=False)
        st.plotly_chart(charts.memory_quality(found.runs, found.table, metric), key="compare.memory", config=BAR)
    left, right = st.columns(2)
    with left:
        st.subheader("Learning curve", anchor=False)
        st.plotly_chart(
            charts.bands(comparison.curves(found.rows, metric), f"{words.title(metric)} (validation)"),
            key="compare.curve",
            config=BAR,
        )
    with right:
        st.subheader("Training loss", anchor=False)
        st.plotly_chart(
            charts.bands(comparison.curves(found.rows, "loss"), "Training loss (nats)"), key="compare.loss", config=BAR
        )
    st.caption(
        "Faint dots are single runs, strong markers their means. Bands and bars are 95 % intervals; "
        "with few seeds they may leave the figure."
    )
