"""What came of experiments: rows of runs and their summary, as `run --json` and `compare --json` print them."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.errors import WorkbenchError, unknown
from workbench.core.paths import run_folder
from workbench.jobs import client, wire
from workbench.services import judging, stored

if TYPE_CHECKING:
    import pandas as pd

FIGURES = (
    "trainable_params", "base_trained_params", "peak_trainable_params", "head_params", "total_params", "adapter_bytes",
    "peak_memory_bytes", "train_seconds", "examples_per_second", "load_seconds", "prepare_seconds",
    "first_step_seconds", "eval_seconds", "steps",
)  # fmt: skip
NOTES = ("memory_kind", "precision", "device", "threads", "neighbours", "learning_rate", "search", "search_seconds", "notes")
JOB = (
    "job", "run_id", "experiment", "name", "kind", "label", "method", "seed", "state", "intent", "step", "steps", "attempt",
    "reason", "failure", "mlflow_id", "submitted", "started", "ended",
)  # fmt: skip
PREDICTED = ("trainable_params", "peak_memory_bytes", "train_seconds")


def experiments() -> list[dict[str, Any]]:
    """Every experiment, newest first: {experiment, name, submitted, runs, finished, live}."""
    return client.experiments()


def find_experiment(reference: str) -> str:
    """The id of an experiment from its id, a bare name (its newest), or a unique beginning of an id.

    Raises:
        WorkbenchError: none or several match.
    """
    known = experiments()
    for field in ("experiment", "name"):
        for one in known:
            if one[field] == reference:
                return one["experiment"]
    near = [one["experiment"] for one in known if reference and one["experiment"].startswith(reference)]
    if len(near) == 1:
        return near[0]
    if near:
        raise WorkbenchError(f"{reference!r} must mean one experiment; it fits {len(near)}: {', '.join(near[:3])}.")
    raise unknown("experiment", reference, [n for one in known for n in (one["experiment"], one["name"])])


def results(references: Sequence[str]) -> dict[str, Any]:
    """Rows, summary and pairs of one or several experiments.

    Args:
        references: experiment ids, bare names or unique beginnings.

    Returns:
        {experiment, experiments, rows, summary, pairs, guard}; everything unknown is null, never NaN. `pairs` judges the headline
        metric (`compare.PAIRS`); `guard` says what is not overlaid: {groups: [{label, group}], sentences, notes}.

    Raises:
        WorkbenchError: no such experiment.
    """
    ids, found = rows(references)
    metric, more_is_better = judging.headline(found)
    guard = judging.guard(found)
    pairs = judging.pairs(found, metric, more_is_better, guard.of())
    notes = [*guard.notes, *([judging.TOO_MANY] if judging.too_many(found) else [])]
    return {
        "experiment": ids[0] if len(ids) == 1 else ", ".join(ids),
        "experiments": ids,
        "rows": found,
        "summary": _summary(found),
        "pairs": _records(pairs),
        "guard": {"groups": _records(guard.groups), "sentences": list(guard.sentences), "notes": notes},
    }


def rows(
    references: Sequence[str], labels: Collection[str] | None = None, runs: Collection[str] | None = None
) -> tuple[list[str], list[dict[str, Any]]]:
    """The ids of experiments and the rows of their runs; labels that several experiments have carry theirs in brackets
    unless they are one setting with further seeds.

    Args:
        references: experiment ids, bare names or unique beginnings.
        labels, runs: only runs with one of these labels, of these run ids; only their folders are read.

    Raises:
        WorkbenchError: no such experiment.
    """
    if not references:
        raise WorkbenchError("compare needs at least one experiment; `jobs` lists them.")
    ids = list(dict.fromkeys(find_experiment(r) for r in references))
    jobs = [job for one in ids for job in client.jobs(one) if job["kind"] == "train"]
    _distinct(jobs)
    wanted = [j for j in jobs if (labels is None or j["label"] in labels) and (runs is None or j["run_id"] in runs)]
    return ids, [_row(job) for job in wanted]


def _distinct(jobs: list[dict[str, Any]]) -> None:
    """Mark labels that several experiments use for different things; the same setting with further seeds stays one label."""
    own: dict[str, list[dict[str, Any]]] = {}
    for job in jobs:
        own.setdefault(job["label"], []).append(job)
    for label, some in own.items():
        if len({job["experiment"] for job in some}) > 1 and not _continued(some):
            for job in some:
                job["label"] = f"{label} ({job['experiment']})"


def _continued(jobs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these runs differ in nothing but their seeds; a run whose spec is gone is like no other's."""
    seeds = {job["seed"] for job in jobs}
    if len(seeds) < len(jobs):
        return False
    settings = [stored.setting(run_folder(job["run_id"])) for job in jobs]
    names = ("base_method", "preset", "config", "modifiers", "recipe", "init_from")
    return all(s.spec for s in settings) and len({repr([s.fields, *(s.spec.get(n) for n in names)]) for s in settings}) == 1


def _summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from workbench import compare

    return _records(compare.summaries(compare.frame(rows))) if rows else []


def _records(table: "pd.DataFrame") -> list[dict[str, Any]]:
    from workbench import compare

    return compare.records(table)


def _row(job: dict[str, Any]) -> dict[str, Any]:
    """One run: its job row, its spec and, once it is over, its verdict's result."""
    folder = run_folder(job["run_id"])
    setting, verdict = stored.setting(folder), stored.verdict(folder)
    spec = setting.spec
    done = (verdict.get("result") or {}) if verdict.get("attempt") == job["attempt"] and job["state"] == "finished" else {}
    row = {name: job[name] for name in ("run_id", "job", "experiment", "label", "method")}
    row |= {name: spec.get(name) for name in ("base_method", "preset", "task", "config", "modifiers", "recipe", "init_from")}
    row |= {name: job[name] for name in ("seed", "state", "reason", "step", "attempt", "mlflow_id")}
    row["failure"] = failure(job)
    row |= {name: done.get(name) for name in (*FIGURES, *NOTES)}
    row["metrics"], row["validation"] = done.get("metrics") or {}, done.get("validation") or {}
    row["predicted"] = {name: (spec.get("predicted") or {}).get(name) for name in PREDICTED}
    row |= {**setting.digests, "test_rows": stored.test_rows(folder) if done else None, "fields": setting.fields}
    return wire.plain(row)


def run_spec(folder: Path) -> dict[str, Any]:
    """A run folder's RunSpec as plain values, read once per change; empty where it is gone or damaged."""
    return stored.setting(folder).spec


def job_rows(experiment: str | None = None) -> list[dict[str, Any]]:
    """The queue as `jobs --json` prints it."""
    return [job_row(row) for row in client.jobs(experiment)]


def job_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """What outside tools may know of a job's row; `failure` is null, or {cause, sentence, field, lines}."""
    return {**{name: row[name] for name in JOB}, "failure": failure(row)}


def failure(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Why a job failed, where that is known: {cause, sentence, field, lines}."""
    return json.loads(row["failure"]) if row["failure"] else None


def job_of(reference: int | str) -> dict[str, Any]:
    """One job's row by number, run id or unique beginning of a run id.

    Raises:
        WorkbenchError: none or several match.
    """
    return job_row(client.find(reference))


def state(reference: int | str) -> str:
    """The state of one job."""
    return str(client.find(reference)["state"])
