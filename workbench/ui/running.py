"""The parts of the Run screen."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from workbench.figures import counts, curves
from workbench.services import outcomes, queue, results, runs
from workbench.ui import notices, plots, queueing, tables, words


def pick() -> str:
    """The run of `?run=`, or the one chosen; the newest at first."""
    rows = [row for row in queue.rows() if row["kind"] == "train"]
    if not rows:
        notices.empty("There are no runs yet.", "build", "Build an experiment")
        return ""
    asked = st.query_params.get("run", "")
    found = runs.find(asked) if asked else rows[0]["run_id"]
    rows += [] if any(row["run_id"] == found for row in rows) else [results.job_of(found)]  # older than what is listed
    names = {row["run_id"]: f"{row['label']}, seed {row['seed']} · {row['experiment']} · job {row['job']}" for row in rows}
    start = list(names).index(found) if found in names else 0
    chosen = st.selectbox(
        "Run", list(names), start, key=f"run.pick.{asked}", format_func=names.__getitem__, label_visibility="collapsed"
    )
    if chosen != asked:
        st.query_params["run"] = chosen
    return chosen or found


def live(run_id: str) -> None:
    """Head, tiles and curves; they follow the run until it is finished, within two seconds of each event."""
    busy = results.state(run_id) != "finished"
    st.fragment(_live, run_every=queueing.EVERY if busy else None)(run_id, results.state(run_id))


def _live(run_id: str, before: str) -> None:
    with notices.shown():
        view = runs.view(run_id)
        job = view["job"]
        st.markdown(f"### {notices.plain(job['label'])}, seed {job['seed']} {notices.state(job['state'])}")
        if view["failure"]:
            _failure(view["failure"], job)
        elif job["state"] == "paused":
            text = job["reason"] or "The run stands still where it was paused; resume it."
            st.info(notices.plain(notices.capital(text)), icon=":material/pause:")
        elif job["state"] == "cancelled":
            st.warning(notices.plain(job["reason"] or "The run was cancelled."), icon=":material/block:")
        elif job["state"] in queue.LIVE:
            share = min(job["step"] / job["steps"], 1.0) if job["steps"] else 0.0
            phase = view["curves"]["phases"][-1]["name"] if view["curves"]["phases"] else "waiting for its turn"
            st.progress(share, text=f"{phase}, step {job['step']:,} of {job['steps']:,}" if job["steps"] else phase)
            if view["quiet"] is not None:
                text = f"No sign of life for {words.duration(view['quiet'])}: it may hang. Look at its log; wait, or cancel it."
                st.warning(text, icon=":material/hourglass_disabled:")
        with st.container(horizontal=True):
            for action in queue.actions(job):
                if action != "delete":  # a run that is gone has no page
                    queueing.ask(action, [job["job"]])
        queueing.answer()
        _tiles(view)
        _curves(view)
        if before != job["state"]:
            st.rerun()  # what stands below follows the state, too


def _failure(found: Mapping[str, Any], job: Mapping[str, Any]) -> None:
    """Why it failed in one sentence, what to change, and the lines of the log that show it."""
    notices.problem(found["sentence"])
    if found["field"]:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"Field to change: :orange-badge[{found['field']}]", width="content")
            notices.link("build", "Change it and run again", ":material/edit:", clone=job["experiment"])
    if any(found["sentence"] not in line and not line.startswith("File ") for line in found["lines"]):  # it says more
        st.caption("What the log says")
        st.code("\n".join(found["lines"]), language=None, wrap_lines=True)


def _tiles(view: Mapping[str, Any]) -> None:
    row = view["row"] or {}
    shown = [(words.title(k), words.score(v), "On the test split") for k, v in list((row.get("metrics") or {}).items())[:2]]
    shown += [
        (
            "Trainable",
            words.short(row.get("trainable_params")),
            f"{words.count(row.get('trainable_params'))} scalars without the head",
        ),
        ("Head", words.short(row.get("head_params")), f"{words.count(row.get('head_params'))} scalars of the task's head"),
        ("Peak memory", words.size(row.get("peak_memory_bytes")), str(row.get("memory_kind") or "")),
        (
            "Training time",
            words.duration(row.get("train_seconds")),
            f"predicted: {words.duration((row.get('predicted') or {}).get('train_seconds'))}",
        ),
        ("Speed", words.score(row.get("examples_per_second")), "Examples per second"),
    ]
    for place, (label, value, text) in zip(st.columns(len(shown)), shown):
        place.metric(label, value, help=text or None)


def _curves(view: Mapping[str, Any]) -> None:
    found, label = view["curves"], view["job"]["label"]
    if not found["steps"] and not found["evaluations"]:
        st.caption("No curve yet: the run has done no step.")
        return
    metric = next((name for e in found["evaluations"] for name in e["metrics"] if name != "loss"), "")
    left, right = st.columns(2)
    if found["steps"]:
        with left:
            plots.show(curves.live_loss(found["steps"], label), "run.loss")
    if metric:
        with right:
            plots.show(curves.live_metric(found["evaluations"], metric, label), "run.metric")
    else:
        right.caption("No evaluation yet." if view["job"]["state"] in queue.LIVE else "No evaluation.")


SETTINGS = (
    "method", "base_method", "preset", "config", "modifiers", "recipe", "init_from", "training", "learning_rate_source", "data",
    "model", "seed",
)  # fmt: skip
ENVIRONMENT = (
    "device", "threads", "precision", "neighbours", "memory_kind", "load_seconds", "prepare_seconds",
    "first_step_seconds", "eval_seconds", "search_seconds", "search", "notes", "versions", "base_sha256",
)  # fmt: skip


def details(run_id: str) -> None:
    """Predictions, settings, environment and log, in tabs."""
    view = runs.view(run_id)
    spec, job = view["spec"], view["job"]
    result = (view["verdict"] or {}).get("result") or {}
    first, second, third, fourth = st.tabs(["Predictions", "Settings", "Environment", "Log"])
    with first:
        _predictions(run_id)
    with second:
        _pairs({name: spec.get(name) for name in SETTINGS}, "The settings of this run")
    with third:
        own = {"run": run_id, "mlflow run": job["mlflow_id"], "attempt": job["attempt"]}
        _pairs({**{name: result.get(name) for name in ENVIRONMENT}, **own}, "Where it ran")
    with fourth:
        st.code(view["log"] or "The log is empty.", language=None, height=380)


def _pairs(values: Mapping[str, Any], alt: str) -> None:
    tables.show(tables.pairs(values), alt, columns={"What": st.column_config.TextColumn(width=170)}, height="content")


def _predictions(run_id: str) -> None:
    found = outcomes.outcome(run_id)
    if found is None:
        st.caption("Predictions on the test split appear here when the run is finished.")
        return
    if found["labels"]:
        st.caption(f"{found['right']:,} of {found['rows']:,} test rows are right.")
    left, right = st.columns([3, 2])
    if found["counts"]:
        with left:
            plots.show(counts.confusion(found["labels"], found["counts"]), "run.confusion")
    with right:
        st.markdown("**Worst mistakes**" if found["labels"] else "**Rows with the largest loss**")
        if found["worst"]:
            tables.show(
                tables.mistakes(found["worst"]), "Rows with the largest loss", columns=tables.mistake_columns(), height=420
            )
        else:
            st.caption("There are none.")


def links(run_id: str) -> None:
    """Where to go from here."""
    row = results.job_of(run_id)
    with st.container(horizontal=True):
        notices.link("compare", "Compare its experiment", ":material/scatter_plot:", experiment=row["experiment"])
        if row["state"] == "finished":
            notices.link("adapters", "Export its adapter", ":material/extension:", adapter=run_id)
