"""The Compare screen: what is compared, its overview, and the frame of its other sections."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from workbench import compare
from workbench.figures import curves, quality
from workbench.services import comparison, queue, report, results
from workbench.services.comparison import Comparison
from workbench.ui import address, inside, judging, measuring, mistaking, notices, plots, tables, weighing, words

PAGE = "compare"
TABS = {
    "overview": "Overview",
    "better": "Is it really better?",
    "tradeoffs": "Trade-offs",
    "curves": "Learning curves",
    "mistakes": "Mistakes",
    "inside": "Where it changed",
}
STEPS = "3s"  # how often a comparison with live runs looks for finished ones


@dataclass(frozen=True)
class View:
    """What the sections draw.

    Attributes:
        whole: everything asked for.
        found: the part that is drawn: one group of runs that may be overlaid, and the chosen labels.
        metric, higher, unit: the quality shown.
    """

    whole: Comparison
    found: Comparison
    metric: str
    higher: bool
    unit: str


def pick() -> tuple[list[str], list[str]]:
    """The experiments of `?experiment=` or those chosen, the newest at first; and the runs of `?run=`, none for all.

    Raises:
        WorkbenchError: the URL names an experiment or a run that is not there.
    """
    address.follow(PAGE)
    known = {one["experiment"]: one for one in results.experiments()}
    if not known:
        notices.empty("There is nothing to compare yet.", "build", "Build an experiment")
        return [], []
    runs = [results.job_of(run) for run in st.query_params.get_all("run")]
    asked = [results.find_experiment(one) for one in st.query_params.get_all("experiment")]
    asked = asked or [row["experiment"] for row in runs]
    newest = next((name for name, one in known.items() if one["finished"]), next(iter(known)))
    if (more := st.session_state.pop(f"{PAGE}.more", None)) is not None:  # seeds that were just asked for
        st.session_state[f"{PAGE}.experiment"] = [*asked, *more]
        known |= {one["experiment"]: one for one in results.experiments()}
    else:
        address.write(PAGE, "experiment", dict.fromkeys(asked))
    chosen = address.several(
        st.multiselect, PAGE, "experiment", "Experiments", list(known), [newest], placeholder="Choose experiments",
        format_func=lambda name: f"{name} ({known[name]['finished']} of {known[name]['runs']} runs)",
    )  # fmt: skip
    if not chosen:
        notices.empty("Choose at least one experiment.")
    return chosen, [row["run_id"] for row in runs]


def draw(references: Sequence[str], runs: Sequence[str], top: Any) -> None:
    """Notes, choices and sections; the downloads go into `top`."""
    whole = _found(tuple(references), None, tuple(runs) or None)
    _watch(whole)
    if runs:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(f"{len(runs)} chosen runs.")
            st.button("Show all runs of these experiments", key=f"{PAGE}.all", on_click=address.write, args=(PAGE, "run", []))
    view = _view(whole, references, runs) if whole.metrics else None
    if view is None or not view.found.metrics:
        live = any(row["state"] in queue.LIVE for row in whole.rows)
        text = "The runs are not finished yet; figures appear here as they finish." if live else "None of these runs finished."
        notices.empty(text, "runs", "Watch the runs" if live else "See why")
        return
    with top:
        _downloads(view.found, references)
    for note in view.found.notes:
        st.markdown(f":material/info: :gray[{notices.plain(note)}]")
    made = address.tabs(PAGE, TABS)
    sections = {
        "overview": lambda: _overview(view),
        "better": lambda: judging.draw(view.found, view.metric, view.higher, view.unit),
        "tradeoffs": lambda: weighing.draw(view.found, view.metric),
        "curves": lambda: _curves(view),
        "mistakes": lambda: mistaking.draw(view.found),
        "inside": lambda: inside.draw(view.found),
    }
    for name, place in made.items():
        if place.open:
            with place, notices.shown():
                sections[name]()


def _found(references: tuple[str, ...], labels: tuple[str, ...] | None, runs: tuple[str, ...] | None) -> Comparison:
    """A comparison, made again only when a run's state changed."""
    stamp = tuple((row["run_id"], row["state"], row["attempt"]) for one in references for row in results.job_rows(one))
    return _made(references, labels, runs, hash(stamp))


@st.cache_resource(max_entries=24, show_spinner="Comparing the runs…")
def _made(references: tuple[str, ...], labels: tuple[str, ...] | None, runs: tuple[str, ...] | None, stamp: int) -> Comparison:
    return comparison.comparison(references, labels=labels, runs=runs)


def _view(whole: Comparison, references: Sequence[str], runs: Sequence[str]) -> View:
    """Group, labels and metric as chosen."""
    labels = list(dict.fromkeys(row["label"] for row in whole.rows))
    if len(set(whole.groups.values())) > 1:
        labels = _group(whole, labels)
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with left:
        chosen = address.several(st.multiselect, PAGE, "label", "Methods", labels, placeholder=f"all {len(labels)} methods")
    shown = tuple(label for label in labels if not chosen or label in chosen)
    all_shown = len(shown) == len({row["label"] for row in whole.rows})
    found = whole if all_shown else _found(tuple(references), shown, tuple(runs) or None)
    metric = found.metric
    options = [name for name in found.metrics if name != "loss"] or list(found.metrics)
    if len(options) > 1:
        with right:
            metric = address.one(st.selectbox, PAGE, "metric", "Quality", options, metric, format_func=words.title)
    better = compare.higher_is_better(metric)
    return View(whole, found, metric, found.higher if better is None else better, compare.unit(metric))


def _group(whole: Comparison, labels: Sequence[str]) -> list[str]:
    """The labels of the group that is drawn: runs that differ in what they were measured on are never overlaid."""
    with st.container(border=True):
        for sentence in whole.guard:
            st.markdown(f":material/block: {notices.plain(sentence)}")
        groups = sorted(set(whole.groups.values()))
        names = {g: words.listed([label for label in labels if whole.groups.get(label) == g], 4) for g in groups}
        with st.container(horizontal=True, vertical_alignment="bottom"):
            group = address.one(
                st.segmented_control, PAGE, "group", "Drawn together", groups, groups[0], required=True,
                format_func=lambda g: notices.plain(names[g]),
            )  # fmt: skip
            notices.link("build", "Make matched runs", ":material/balance:", clone=whole.experiments[0])
    return [label for label in labels if whole.groups.get(label) == group]


def _downloads(found: Comparison, references: Sequence[str]) -> None:
    file = references[0] if len(references) == 1 else "comparison"
    place = st.container(horizontal=True, width="content")
    place.download_button(
        "CSV", lambda: tables.to_csv(found.rows), f"{file}.csv", "text/csv", icon=":material/download:", key="compare.csv",
        help="One line per run, with every figure.",
    )  # fmt: skip
    place.download_button(
        "Report", lambda: report.html(found), f"{file}.html", "text/html", icon=":material/description:", key="compare.html",
        help="One HTML file with tables, figures, sentences, specs and versions; it needs no network.",
    )  # fmt: skip


def _overview(view: View) -> None:
    found, metric = view.found, view.metric
    pairs = comparison.pairs(found, metric)
    st.markdown(f"**{notices.plain(quality.headline(found.table, pairs, metric, view.higher))}**")
    tables.show(
        tables.comparison(found.table, found.metrics, metric),
        "One line per method",
        columns=tables.comparison_columns(found.metrics),
    )
    better = "Higher is better." if view.higher else "Lower is better."
    st.caption(
        f"Means over finished runs on the test split, with 95 % t intervals over seeds. {better} "
        "Everything here is measured; nothing is predicted."
    )
    plots.show(quality.by_label(found.runs, found.table, metric, view.higher), "compare.quality")
    st.caption(
        "A faint dot is a run, the strong marker the mean of its seeds, the bar its 95 % interval; "
        "with few seeds it may leave the figure."
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(
            "Unequal budgets? Clone the experiment and give every method the same parameters or the same time.", width="content"
        )
        notices.link("build", "Make matched runs", ":material/balance:", clone=found.experiments[0])


def _curves(view: View) -> None:
    rows, metric = view.found.rows, view.metric
    held = tuple((row["run_id"], row["label"], row["state"], row["attempt"], row["step"]) for row in rows)
    left, right = st.columns(2)
    with left:
        st.subheader(f"{words.title(metric)} on the validation split", anchor=False)
        plots.show(_bands(held, metric, words.title(metric), rows), "compare.curve")
    with right:
        st.subheader("Training loss", anchor=False)
        plots.show(_bands(held, "loss", "Training loss (nats)", rows), "compare.loss")
    st.caption("Lines are means over seeds at each step, bands their 95 % intervals where at least two seeds have the step.")


@st.cache_data(max_entries=32, show_spinner="Reading the curves…")
def _bands(held: tuple[tuple, ...], name: str, title: str, _rows: Sequence[dict[str, Any]]) -> go.Figure:
    """The curves of these runs as far as they had come; drawn once."""
    return curves.bands(comparison.curves(_rows, name), title)


def _watch(whole: Comparison) -> None:
    """While runs are going on, look for finished ones; choices stay as they are."""
    live = sum(row["state"] in queue.LIVE for row in whole.rows)
    asked = measuring.waiting()
    if live or asked:
        st.fragment(_waited, run_every=STEPS)(whole.experiments, {row["run_id"]: row["state"] for row in whole.rows}, asked)


def _waited(experiments: Sequence[str], drawn: dict[str, Any], asked: Sequence[int]) -> None:
    now = {row["run_id"]: row["state"] for one in experiments for row in results.job_rows(one) if row["kind"] == "train"}
    over = sum(state not in queue.LIVE for state in now.values())
    if over < len(now):
        st.progress(over / len(now), text=f"{over} of {len(now)} runs are over; figures appear as runs finish.")
    changed = any(now.get(run) != state and now.get(run) not in queue.LIVE for run, state in drawn.items())
    if changed or any(results.state(job) not in queue.LIVE for job in asked):
        st.rerun()
