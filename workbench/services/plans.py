"""What an experiment will take, before anything is started."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.core.spec import ExperimentSpec, load_spec, parse_spec
from workbench.jobs import engine
from workbench.services import dry_run
from workbench.services.preparing import Line, Prepared, prepare

COUNTS = ("trainable_params", "base_trained_params", "head_params", "total_params")


def plan(spec: ExperimentSpec) -> dict[str, Any]:
    """Predict every method of an experiment, in this process.

    Returns:
        {experiment, rows, notes, problems, warnings, device, weights_bytes, calibration, methods}. Problems block a launch,
        warnings do not. Each method has its label, counts, sites, `predicted`, `predicted_raw` and `problems`; `sites` is
        their number, `roles` says how many of each, `paths` where they are; `fits` is None where that is unknown;
        `search` is None, or the learning rates that each run tries and the seconds of all these trainings together.

    Raises:
        WorkbenchError: the task, the data or the base model cannot be used.
    """
    return shown(prepare(spec))


def shown(ready: Prepared) -> dict[str, Any]:
    """The plan of a prepared experiment."""
    ground, common = ready.ground, ready.spec.training
    machine = ground.machine(common)
    methods = [_method(line, ready) for line in ready.lines]
    return {
        "experiment": ready.spec.name,
        "problems": ready.problems(),
        "warnings": [f"{one['label']}: {one['warning']}" for one in methods if one["warning"]],
        "notes": list(ready.notes),
        "rows": ready.rows,
        "device": {
            "kind": machine.device,
            "threads": machine.threads,
            "precision": machine.precision,
            "free_bytes": ground.room.free,
            "total_bytes": ground.room.total,
        },
        "weights_bytes": ground.weights,
        "calibration": ground.calibration(common).as_plain(),
        "methods": methods,
    }


def _method(line: Line, ready: Prepared) -> dict[str, Any]:
    from workbench.plan import fitting

    plan, ground = line.plan, ready.ground
    fits, warning = fitting.fits(plan, ground.weights, ground.machine(line.training), ground.room) if line.key else (None, "")
    return {
        "label": line.entry.label,
        "method": line.entry.method,
        "base_method": line.key or None,
        "preset": line.preset,
        "config": dict(line.config),
        "modifiers": list(line.modifiers),
        "recipe": line.recipe,
        "init_from": line.start.ref.path if line.start else None,
        "learning_rate": line.training.learning_rate if line.key else None,
        "learning_rate_source": line.rate_source,
        **{name: getattr(plan, name) if line.key else None for name in COUNTS},
        "exact_params": plan.exact if line.key else None,
        "share_of_base": plan.trainable_params / plan.base_params if line.key and plan.base_params else None,
        "sites": len(plan.sites),
        "roles": plan.roles(),
        "paths": [site.path for site in plan.sites],
        "predicted": plan.predicted(),
        "search": _search(line),
        "predicted_raw": plan.raw(),
        "memory_parts": dict(plan.memory) or None,
        "weights_bytes": ground.weights,
        "steps": plan.steps,
        "seconds_per_step": plan.seconds_per_step(),
        "fits": fits,
        "warning": warning,
        "problems": [*([ready.problem] if ready.problem else []), *plan.problems],
    }


def _search(line: Line) -> dict[str, Any] | None:
    """What trying several learning rates costs together; `predicted` is one training."""
    rates, seconds = line.training.learning_rate, line.plan.predicted()["train_seconds"]
    if not isinstance(rates, tuple):
        return None
    return {"rates": list(rates), "seconds": None if seconds is None else seconds * len(rates)}


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


def ask_dry_run(spec: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Three real training steps of one entry in a child process, beside its prediction; see `dry_run.ask`."""
    return dry_run.ask(spec, label)
