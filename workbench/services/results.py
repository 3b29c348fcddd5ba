"""What came of experiments: rows of runs and their summary, as `run --json` and `compare --json` print them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.core.errors import WorkbenchError, unknown
from workbench.core.paths import run_folder
from workbench.jobs import client, wire
from workbench.jobs.record import read_spec

FIGURES = (
    "trainable_params", "base_trained_params", "peak_trainable_params", "head_params", "total_params", "adapter_bytes",
    "peak_memory_bytes", "train_seconds", "examples_per_second", "load_seconds", "first_step_seconds", "eval_seconds", "steps",
)  # fmt: skip
NOTES = ("memory_kind", "precision", "device", "threads", "neighbours", "learning_rate")
JOB = (
    "job", "run_id", "experiment", "name", "kind", "label", "method", "seed", "state", "intent", "step", "steps", "attempt",
    "reason", "mlflow_id", "submitted", "started", "ended",
)  # fmt: skip
PREDICTED = ("trainable_params", "peak_memory_bytes", "train_seconds")
_specs: dict[tuple[str, int], dict[str, Any]] = {}


def experiments() -> list[dict[str, Any]]:
    """Every experiment, newest first: {experiment, name, submitted, runs, finished, live}."""
    found: dict[str, dict[str, Any]] = {}
    for row in client.jobs():
        if row["kind"] != "train":
            continue
        fresh = {
            "experiment": row["experiment"],
            "name": row["name"],
            "submitted": row["submitted"],
            "runs": 0,
            "finished": 0,
            "live": 0,
        }
        one = found.setdefault(row["experiment"], fresh)
        one["runs"] += 1
        one["finished"] += row["state"] == "finished"
        one["live"] += row["state"] in ("queued", "starting", "running")
    return sorted(found.values(), key=lambda one: -one["submitted"])


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
        {experiment, experiments, rows, summary, pairs}; everything unknown is null, never NaN. With several experiments,
        labels that occur in more than one carry the experiment in brackets.

    Raises:
        WorkbenchError: no such experiment.
    """
    if not references:
        raise WorkbenchError("compare needs at least one experiment; `jobs` lists them.")
    ids = list(dict.fromkeys(find_experiment(r) for r in references))
    rows = [_row(job) for one in ids for job in client.jobs(one) if job["kind"] == "train"]
    _distinct(rows)
    return {
        "experiment": ids[0] if len(ids) == 1 else ", ".join(ids),
        "experiments": ids,
        "rows": rows,
        "summary": _summary(rows),
        "pairs": [],
    }


def _distinct(rows: list[dict[str, Any]]) -> None:
    places: dict[str, set[str]] = {}
    for row in rows:
        places.setdefault(row["label"], set()).add(row["experiment"])
    for row in rows:
        if len(places[row["label"]]) > 1:
            row["label"] = f"{row['label']} ({row['experiment']})"


def _summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from workbench import compare

    return compare.records(compare.summaries(compare.frame(rows))) if rows else []


def _row(job: dict[str, Any]) -> dict[str, Any]:
    """One run: its job row, its spec and, once it is over, its verdict's result."""
    folder = run_folder(job["run_id"])
    spec = run_spec(folder)
    verdict = wire.read_json(folder / "verdict.json") or {}
    done = (verdict.get("result") or {}) if verdict.get("attempt") == job["attempt"] and job["state"] == "finished" else {}
    row = {name: job[name] for name in ("run_id", "job", "experiment", "label", "method")}
    row |= {name: spec.get(name) for name in ("base_method", "preset", "task", "config", "modifiers", "recipe")}
    row |= {name: job[name] for name in ("seed", "state", "reason", "step", "attempt", "mlflow_id")}
    row |= {name: done.get(name) for name in (*FIGURES, *NOTES)}
    row["metrics"], row["validation"] = done.get("metrics") or {}, done.get("validation") or {}
    row["predicted"] = {name: (spec.get("predicted") or {}).get(name) for name in PREDICTED}
    return wire.plain(row)


def run_spec(folder: Path) -> dict[str, Any]:
    """A run folder's RunSpec as plain values, read once per change; empty where it is gone or damaged."""
    try:
        key = (str(folder), (folder / "spec.yaml").stat().st_mtime_ns)
        if key not in _specs:
            _specs[key] = read_spec(folder).model_dump(mode="json")
        return _specs[key]
    except (OSError, WorkbenchError):
        return {}


def job_rows(experiment: str | None = None) -> list[dict[str, Any]]:
    """The queue as `jobs --json` prints it."""
    return [job_row(row) for row in client.jobs(experiment)]


def job_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """What outside tools may know of a job's row."""
    return {name: row[name] for name in JOB}


def job_of(reference: int | str) -> dict[str, Any]:
    """One job's row by number, run id or unique beginning of a run id.

    Raises:
        WorkbenchError: none or several match.
    """
    return job_row(client.find(reference))


def state(reference: int | str) -> str:
    """The state of one job."""
    return str(client.find(reference)["state"])
