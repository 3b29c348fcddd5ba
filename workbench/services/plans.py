"""What an experiment will take, before anything is started."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.core.spec import ExperimentSpec, load_spec, parse_spec
from workbench.jobs import engine
from workbench.services.preparing import Line, prepare

COUNTS = ("trainable_params", "base_trained_params", "head_params", "total_params")


def plan(spec: ExperimentSpec) -> dict[str, Any]:
    """Predict every method of an experiment, in this process.

    Returns:
        {experiment, rows, notes, problems, methods}; each method has its label, counts, sites, `predicted` and `problems`.
        `sites` is their number, `roles` says how many of each, `paths` where they are.

    Raises:
        WorkbenchError: the task, the data or the base model cannot be used.
    """
    ready = prepare(spec)
    return {
        "experiment": spec.name,
        "problems": ready.problems(),
        "notes": list(ready.notes),
        "rows": ready.rows,
        "methods": [_method(line, ready.problem) for line in ready.lines],
    }


def _method(line: Line, problem: str) -> dict[str, Any]:
    plan = line.plan
    return {
        "label": line.entry.label,
        "method": line.entry.method,
        "base_method": line.key or None,
        "preset": line.preset,
        "config": dict(line.config),
        "modifiers": list(line.modifiers),
        "recipe": line.recipe,
        "learning_rate": line.training.learning_rate if line.key else None,
        "learning_rate_source": line.rate_source,
        **{name: getattr(plan, name) if line.key else None for name in COUNTS},
        "sites": len(plan.sites),
        "roles": plan.roles(),
        "paths": [site.path for site in plan.sites],
        "predicted": plan.predicted(),
        "problems": [*([problem] if problem else []), *plan.problems],
    }


def plan_request(spec: Mapping[str, Any] | str) -> dict[str, Any]:
    """`plan` for the engine: `spec` is a plain mapping or the path of a YAML file."""
    return plan(as_spec(spec))


def as_spec(value: ExperimentSpec | Mapping[str, Any] | str | Path) -> ExperimentSpec:
    """An ExperimentSpec from itself, a mapping, or the path of a YAML file."""
    if isinstance(value, ExperimentSpec):
        return value
    return parse_spec(value) if isinstance(value, Mapping) else load_spec(value)


def ask(spec: Mapping[str, Any]) -> dict[str, Any]:
    """`plan` without importing torch here: the engine answers."""
    return engine.ask("plan", {"spec": dict(spec)})
