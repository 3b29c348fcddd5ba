"""One run as its screen shows it: spec, verdict, curves, log, and why it failed."""

import math
import time
from pathlib import Path
from typing import Any

from tracking import events as tracked
from workbench.core.paths import run_folder
from workbench.jobs import client, wire
from workbench.services import queue, results

CURVE_POINTS = 2000
TAIL_LINES = 200


def find(reference: int | str) -> str:
    """The run id of a job number, run id, or unique beginning of a run id.

    Raises:
        WorkbenchError: none or several match.
    """
    return str(client.find(reference)["run_id"])


def view(reference: int | str) -> dict[str, Any]:
    """Everything about one run.

    Args:
        reference: job number, run id, or unique beginning of a run id.

    Returns:
        {job (the row), row (as in a comparison), spec, verdict, placement, curves, log, failure, quiet}. `failure` is
        {cause, sentence, field, lines} of a run that failed, else null; `quiet` as in the queue's rows.

    Raises:
        WorkbenchError: none or several runs match.
    """
    job = client.find(reference)
    folder = run_folder(job["run_id"])
    return {
        "job": job,
        "row": results._row(job) if job["kind"] == "train" else None,
        "spec": results.run_spec(folder),
        "verdict": client.verdict(job["job"]),
        "placement": wire.read_json(folder / "placement.json"),
        "curves": curves(folder, job["attempt"]),
        "log": "\n".join(client.logs(job["job"]).splitlines()[-TAIL_LINES:]),
        "failure": _failure(job) if job["state"] == "failed" else None,
        "quiet": queue.quiet(job, time.time()),
    }


def _failure(job: dict[str, Any]) -> dict[str, Any]:
    """What is known of a failed run; a run of an earlier version has its sentence alone."""
    said = job["reason"] or "the run failed without a reason; see its log."
    return results.failure(job) or {"cause": "other", "sentence": said, "field": "", "lines": []}


def curves(folder: Path, attempt: int | None = None) -> dict[str, list[dict[str, Any]]]:
    """What `events.jsonl` says.

    Args:
        folder: the run folder.
        attempt: only what this attempt emitted, where events carry one; the last value of a step counts.

    Returns:
        {steps: [{step, loss, lr, seconds}], evaluations: [{step, split, metrics}], phases: [{time, name}]}. Of a search over
        learning rates only the rate that was kept (while it runs: the present one), its steps numbered from 1.
    """
    steps: dict[int, dict[str, Any]] = {}
    evaluations: dict[tuple[int, str], dict[str, Any]] = {}
    phases, after, until = [], 0, math.inf
    for event in events(folder):
        if attempt is not None and event.get("attempt", attempt) != attempt:
            continue
        kind = event.get("event")
        if kind == "step":
            steps[event["step"]] = {name: event.get(name) for name in ("step", "loss", "lr", "seconds")}
        elif kind == "evaluated":
            evaluations[event["step"], event["split"]] = {name: event[name] for name in ("step", "split", "metrics")}
        elif kind == "phase":
            phases.append({"time": event.get("time"), "name": event.get("name")})
            if event.get("after") is not None:
                after, until = event["after"], event["after"] + event["steps"]
    ordered = [{**steps[number], "step": number - after} for number in sorted(steps) if after < number <= until]
    judged = [{**e, "step": e["step"] - after} for (number, _), e in evaluations.items() if after < number <= until]
    thin = max(1, len(ordered) // CURVE_POINTS)
    return {"steps": wire.plain(ordered[::thin]), "evaluations": wire.plain(judged), "phases": phases}


def events(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's `events.jsonl`; a line that is just being written is left out."""
    return [record for record, _ in tracked.read(folder) if record]
