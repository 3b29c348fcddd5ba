"""The spec of an experiment that was submitted, made again from its runs, so that it can be changed and run once more."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.core.data_spec import DataSpec
from workbench.core.errors import WorkbenchError
from workbench.core.paths import run_folder
from workbench.core.spec import ModelSpec, TrainingSpec, parse_spec
from workbench.jobs import client
from workbench.services import catalogue, results

Run = Mapping[str, Any]


def clone(experiment: str) -> dict[str, Any]:
    """The spec whose plan has the same runs: every method with every seed that was submitted, as far as the runs still exist.

    Args:
        experiment: its id, or a bare name for the newest of that name.

    Returns:
        A plain mapping, as one writes it: only what differs from the usual stands in it.

    Raises:
        WorkbenchError: no such experiment, or none of its runs is left.
    """
    jobs = [job for job in client.jobs(experiment) if job["kind"] == "train"]
    runs = [spec for job in jobs if (spec := results.run_spec(run_folder(job["run_id"])))]
    if not runs:
        raise WorkbenchError(f"no run of the experiment {experiment[:80]!r} is left to make its spec from; write it anew.")
    firsts = list({run["label"]: run for run in reversed(runs)}.values())[::-1]
    common, own = _training([_asked(run) for run in firsts])
    found: dict[str, Any] = {
        "name": runs[0]["experiment"].rpartition("-")[0] or runs[0]["experiment"],
        "model": _short(_unusual(runs[0]["model"], ModelSpec)),
        "task": runs[0]["task"],
        "data": _data(runs[0]["data"]),
        "methods": [_entry(run, training) for run, training in zip(firsts, own, strict=True)],
        **({"training": common} if common else {}),
        "seeds": list(dict.fromkeys(run["seed"] for run in runs)),
    }
    if others := {name: _other(ref) for run in firsts for name, ref in (run.get("models") or {}).items()}:
        found["models"] = others
    if runs[0]["device"] != "auto":
        found["device"] = runs[0]["device"]
    if not jobs[0]["exclusive"]:
        found["exclusive"] = False
    if jobs[0]["on_error"] != "continue":
        found["on_error"] = jobs[0]["on_error"]
    if not any(run["base_method"] == "head_only" and not run["modifiers"] and run["recipe"] is None for run in firsts):
        found["baseline"] = False
    parse_spec(found)
    return found


def _unusual(values: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """What of the values differs from the model's defaults; keys that the model does not have are left out."""
    fields = model.model_fields
    return {k: v for k, v in values.items() if k in fields and (fields[k].is_required() or v != fields[k].get_default())}


def _short(values: Mapping[str, Any]) -> Any:
    """The source alone where nothing else is said."""
    return values["source"] if set(values) == {"source"} else dict(values)


def _other(ref: Mapping[str, Any]) -> Any:
    """A further model: an adapter by its folder, a base model as it was named."""
    return ref["path"] if "path" in ref else _short(_unusual(ref, ModelSpec))


def _data(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _unusual(value, DataSpec)
    return [_unusual(one, DataSpec) for one in value]


def _asked(run: Run) -> dict[str, Any]:
    """A run's procedure as it was asked for: the method's own learning rate is `auto` again, a list stays one."""
    given = run["learning_rate_source"] == "given" or isinstance(run["training"]["learning_rate"], list)
    return {**run["training"], **({} if given else {"learning_rate": "auto"})}


def _training(asked: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What most methods share, as far as it is unusual, and what each has of its own."""
    shared = {name: Counter(repr(one[name]) for one in asked).most_common(1)[0][0] for name in TrainingSpec.model_fields}
    common = {name: next(one[name] for one in asked if repr(one[name]) == text) for name, text in shared.items()}
    own = [{name: one[name] for name in common if one[name] != common[name]} for one in asked]
    return _unusual(common, TrainingSpec), own


def _entry(run: Run, training: Mapping[str, Any]) -> Any:
    """One line of `methods:`; a name where nothing else is to be said."""
    known = catalogue.everything()
    methods = {one["key"]: one for one in known["methods"]}
    if gone := next((name for name in (run["preset"] or run["base_method"], run["base_method"]) if name not in methods), None):
        raise WorkbenchError(f"the method {gone} of {run['experiment']} is no longer there; write its spec anew.")
    values = methods[run["preset"] or run["base_method"]]["values"] if run["preset"] else {}
    entry: dict[str, Any] = {"method": run["method"]}
    if run["preset"] and run["preset"] != run["method"]:
        entry["preset"] = run["preset"]
    entry |= _chosen(run["config"], methods[run["base_method"]]["schema"], values)
    if run["modifiers"]:
        schemas = {one["key"]: one["schema"] for one in known["modifiers"]}
        entry["modifiers"] = [_part("modifier", one, schemas) for one in run["modifiers"]]
    if run["recipe"]:
        entry["recipe"] = _part("recipe", run["recipe"], {one["key"]: one["schema"] for one in known["recipes"]})
    if training:
        entry["training"] = dict(training)
    if run.get("init_from"):
        entry["init_from"] = run["init_from"]["path"]
    usual = (run["preset"] or run["method"]) + "".join(f"+{m['modifier']}" for m in run["modifiers"])
    if run["label"] != usual + (f"@{run['recipe']['recipe']}" if run["recipe"] else ""):
        entry["label"] = run["label"]
    return run["method"] if set(entry) == {"method"} else entry


def _part(name: str, value: Mapping[str, Any], schemas: Mapping[str, Any]) -> dict[str, Any]:
    """A modifier or a recipe with what was chosen for it."""
    rest = {k: v for k, v in value.items() if k != name}
    return {name: value[name], **_chosen(rest, schemas[value[name]], {})}


def _chosen(config: Mapping[str, Any], schema: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are neither the default nor the preset's."""
    usual = {k: p.get("default") for k, p in schema["properties"].items()} | dict(preset)
    return {k: v for k, v in config.items() if k not in usual or v != usual[k]}
