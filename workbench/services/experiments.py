"""From a spec to runs in the queue, and waiting for them."""

import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from workbench.core.errors import WorkbenchError
from workbench.core.run_spec import RunSpec
from workbench.core.spec import ExperimentSpec
from workbench.jobs import client, engine
from workbench.services import results
from workbench.services.plans import as_spec
from workbench.services.preparing import Line, Prepared, prepare

LONGEST_NAME = 113  # an id adds seven characters


def resolve(spec: ExperimentSpec) -> list[RunSpec]:
    """One RunSpec per method and seed, everything resolved; nothing is written.

    Raises:
        WorkbenchError: the first problem, in one sentence.
    """
    if len(spec.name) > LONGEST_NAME:
        raise WorkbenchError(f"name must have at most {LONGEST_NAME} characters; it has {len(spec.name)}.")
    ready = prepare(spec, strict=True)
    if problems := ready.problems():
        raise WorkbenchError(problems[0])
    experiment = f"{spec.name}-{secrets.token_hex(3)}"
    return [_run(ready, line, experiment, seed) for line in ready.lines for seed in spec.seeds]


def _run(ready: Prepared, line: Line, experiment: str, seed: int) -> RunSpec:
    return RunSpec(
        run_id=f"{slug(line.entry.label)}-s{seed}-{secrets.token_hex(4)}",
        experiment=experiment,
        label=line.entry.label,
        method=line.entry.method,
        base_method=line.key,
        preset=line.preset,
        config=dict(line.config),
        modifiers=line.modifiers,
        recipe=line.recipe,
        init_from=line.start.ref if line.start else None,
        model=ready.model,
        models=line.models,
        task=ready.spec.task,
        data=ready.data,
        training=line.training,
        learning_rate_source=line.rate_source,
        seed=seed,
        device=ready.spec.device,
        predicted=line.plan.remembered(),
    )


def slug(label: str) -> str:
    """A label as the beginning of a file name."""
    return re.sub(r"[^A-Za-z0-9._+@#-]+", "-", label).strip("-._+@#")[:60] or "run"


def submit(spec: ExperimentSpec) -> dict[str, Any]:
    """Queue all runs of an experiment.

    Returns:
        {experiment, jobs: [{job, run_id, label, method, seed}]}.

    Raises:
        WorkbenchError: one sentence; nothing was queued and nothing is left behind.
    """
    runs = resolve(spec)
    jobs = client.submit(runs, spec.exclusive, spec.on_error)
    rows = [
        {"job": j, "run_id": r.run_id, "label": r.label, "method": r.method, "seed": r.seed}
        for j, r in zip(jobs, runs, strict=True)
    ]
    return {"experiment": runs[0].experiment, "jobs": rows}


def submit_request(spec: Mapping[str, Any] | str) -> dict[str, Any]:
    """`submit` for the engine: `spec` is a plain mapping or the path of a YAML file."""
    return submit(as_spec(spec))


def ask_submit(spec: Mapping[str, Any]) -> dict[str, Any]:
    """`submit` without importing torch here: the engine resolves and queues."""
    return engine.ask("resolve_submit", {"spec": dict(spec)})


def run(
    spec: ExperimentSpec,
    on_change: Callable[[list[dict[str, Any]]], None] | None = None,
    on_submit: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Queue an experiment, wait for its runs and compare them; Ctrl-C leaves the runs alone.

    Args:
        spec: the experiment.
        on_change: called with all its job rows whenever one changed.
        on_submit: called once with what `submit` returned.
    """
    queued = submit(spec)
    if on_submit is not None:
        on_submit(queued)
    client.wait([row["job"] for row in queued["jobs"]], on_change)
    return results.results([queued["experiment"]])


def run_experiment(
    spec: ExperimentSpec | Mapping[str, Any] | str | Path, progress: Callable[[list[dict[str, Any]]], None] | None = None
) -> dict[str, Any]:
    """Run an experiment from Python and return its comparison.

    Args:
        spec: an ExperimentSpec, a plain mapping, or the path of a YAML file.
        progress: called with the job rows (label, seed, state, step, steps, ...) whenever one changed.

    Returns:
        {experiment, rows, summary, pairs}, as `python -m workbench run --json` prints.

    Raises:
        WorkbenchError: the spec cannot be run; nothing was started.
    """
    return run(as_spec(spec), progress)
