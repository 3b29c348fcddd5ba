"""Matched runs: the same experiment with every method at an equal number of trainable parameters, or equal wall time."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from workbench.core.errors import WorkbenchError, unknown
from workbench.core.spec import ExperimentSpec, MethodEntry, parse_spec
from workbench.jobs import engine
from workbench.services.plans import as_spec
from workbench.services.preparing import Line, Prepared, prepare

if TYPE_CHECKING:
    from workbench.plan import Workload

By = Literal["parameters", "seconds"]
FAR = 0.1
"""A share of the budget by which a matched entry may be off before it is said."""


def matched(spec: ExperimentSpec | Mapping[str, Any] | str, to: str | int, by: By = "parameters") -> dict[str, Any]:
    """Change each method's size, or its steps, so that all compete on equal terms.

    Args:
        spec: the experiment.
        to: the label of the entry to match, or (by parameters) a number of trainable parameters.
        by: `parameters` = equal trainable parameters, the head not counted; `seconds` = equal predicted training time.

    Returns:
        {spec, notes, target, entries}: the new spec as a plain mapping, sentences, what was held equal, and per entry
        {label, field, value, trainable_params, train_seconds, off_by_share, reason}; `reason` says why it stays as it is.

    Raises:
        WorkbenchError: no such label, or it trains nothing.
    """
    if by not in ("parameters", "seconds"):
        raise unknown("way to match", by, ("parameters", "seconds"))
    ready = prepare(as_spec(spec))
    entries, target = (_by_parameters if by == "parameters" else _by_seconds)(ready, to)
    listed = {e.label for e in as_spec(spec).methods}
    kept = [one for one in entries if one["label"] in listed or one["field"]]  # the baseline row is added again by itself
    lines = {line.entry.label: line for line in ready.lines}
    methods = [_entry(lines[one["label"]], one, ready.ground.work) for one in kept]
    given = as_spec(spec).model_dump(mode="json", exclude_defaults=True)
    new = {**given, "methods": methods}
    parse_spec(new)
    return {"spec": new, "notes": _notes(kept, target, by), "target": target, "entries": kept}


def _line(ready: Prepared, label: str | int) -> Line:
    found = next((line for line in ready.lines if line.entry.label == label), None)
    if found is None:
        raise unknown("entry of methods", label, [line.entry.label for line in ready.lines])
    if found.plan.problems:
        raise WorkbenchError(found.plan.problems[0])
    return found


def _by_parameters(ready: Prepared, to: str | int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    from workbench.plan import matching

    number = int(to) if str(to).isdecimal() and all(line.entry.label != to for line in ready.lines) else None
    label = None if number is not None else str(to)
    budget = number if number is not None else _line(ready, to).plan.trainable_params
    if budget < 1:
        what = "0" if label is None else f"{label}, which trains nothing besides the head"
        raise WorkbenchError(f"a parameter budget must be at least 1; got {what}: name another entry or a number.")
    ground, entries = ready.ground, []
    for line in ready.lines:
        if line.planned is None or line.entry.label == label:
            reason = line.plan.problems[0].rstrip(".") if line.planned is None else "it is the one that the others are matched to"
            entries.append(_row(line, reason=reason, trainable_params=None if line.planned is None else budget))
            continue
        found = matching.match(ground.host, ground.head, line.planned, ground.work, budget)
        entries.append(_row(line, found.field, found.value, found.trainable_params, None, found.off, found.reason))
    return entries, {"label": label, "trainable_params": budget}


def _by_seconds(ready: Prepared, to: str | int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    from workbench.plan import matching

    seconds = _line(ready, to).plan.predicted()["train_seconds"]
    if not seconds:
        raise WorkbenchError(f"{to} must train something to give the time to match; it does not: name another entry.")
    entries = []
    for line in ready.lines:
        steps = matching.steps_for(line.plan, seconds)
        if steps is None or line.entry.label == to:
            reason = "it is the one that the others are matched to" if steps else "there is no training time to match"
            entries.append(_row(line, reason=reason, trainable_params=line.plan.trainable_params))
            continue
        took = line.plan.seconds_of(steps)
        entries.append(_row(line, "max_steps", steps, line.plan.trainable_params, took, took / seconds - 1))
    return entries, {"label": str(to), "train_seconds": seconds}


def _row(line: Line, field: str | None = None, value: int | None = None, trainable_params: int | None = None,
         train_seconds: float | None = None, off: float | None = None, reason: str = "") -> dict[str, Any]:  # fmt: skip
    return {
        "label": line.entry.label,
        "field": field,
        "value": value,
        "trainable_params": trainable_params,
        "train_seconds": train_seconds,
        "off_by_share": off,
        "reason": reason,
    }


def _entry(line: Line, found: Mapping[str, Any], work: "Workload") -> dict[str, Any]:
    """The entry as a person writes it, with the matched value; its label stays, so that rows can be told apart."""
    from workbench.plan import figures

    entry: MethodEntry = line.entry
    new = entry.model_dump(mode="json", exclude_defaults=True, exclude={"config"}) | entry.config | {"label": entry.label}
    if found["field"] == "max_steps":
        new["training"] = {**entry.training, **_enough(line, found["value"], figures.steps_per_epoch(line.training, work))}
    elif found["field"]:
        new[found["field"]] = found["value"]
    if new["label"] == entry.default_label():
        del new["label"]
    return new


def _enough(line: Line, steps: int, per_epoch: int) -> dict[str, Any]:
    """`max_steps`, and more passes where those of the entry would end before."""
    epochs = line.training.epochs
    return {"max_steps": steps, "epochs": epochs if round(per_epoch * epochs) >= steps else math.ceil(steps / per_epoch)}


def _notes(entries: list[dict[str, Any]], target: Mapping[str, Any], by: By) -> list[str]:
    whose = f" as {target['label']}" if target["label"] else ""
    if by == "seconds":
        notes = [
            f"Every method trains for about {target['train_seconds']:.1f} seconds{whose}; times are predicted, not measured."
        ]
    else:
        notes = [f"Every method trains as close to {target['trainable_params']:,} parameters{whose} as its size allows."]
    for one in entries:
        if one["reason"] and one["label"] != target["label"]:
            notes.append(f"{one['label']} stays as it is: {one['reason']}.")
        elif one["off_by_share"] is not None and abs(one["off_by_share"]) > FAR:
            notes.append(f"{one['label']} comes no closer than {one['off_by_share']:+.0%} with {one['field']} {one['value']:,}.")
    return notes


def matched_request(spec: Mapping[str, Any] | str, to: str | int, by: By = "parameters") -> dict[str, Any]:
    """`matched` for the engine."""
    return matched(spec, to, by)


def ask_matched(spec: Mapping[str, Any], to: str | int, by: By = "parameters") -> dict[str, Any]:
    """`matched` without importing torch here: the engine answers."""
    return engine.ask("matched", {"spec": dict(spec), "to": to, "by": by})
