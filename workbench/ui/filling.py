"""The Build form from a spec: every widget that it speaks of gets its value before it is drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from workbench.core.spec import ExperimentSpec, TrainingSpec, parse_spec
from workbench.services import files
from workbench.ui import forms

MAX_VARIANTS = 6
"""Settings of one method that the form holds."""
RUNNING = ("device", "exclusive", "on_error", "baseline")
"""Keys of a spec that say how its runs are queued."""
Spec = Mapping[str, Any]


def fill(spec: Spec, found: Mapping[str, Any]) -> str:
    """Show a spec: in the form where it can hold it, else as YAML.

    Args:
        spec: a plain mapping as one writes it.
        found: the catalogue.

    Returns:
        Why it is shown as YAML; empty when the form shows it.

    Raises:
        WorkbenchError: it is no spec.
    """
    text = files.spec_text(spec)
    beyond = _beyond(spec)
    for key in [k for k in st.session_state if str(k).startswith("build.")]:
        del st.session_state[key]
    st.session_state["build.mode"] = "YAML" if beyond else "Form"
    if beyond:
        st.session_state["build.text"] = text
        return beyond
    held = _base(spec) | methods(spec["methods"], spec["task"], found)
    held |= training(spec.get("training", {}), parse_spec(spec).seeds)
    queued = {name: spec[name] for name in RUNNING if name in spec}
    held |= forms.held(ExperimentSpec.model_json_schema(), "build.running", queued)
    for key, value in held.items():
        st.session_state[key] = value
    return ""


def _beyond(spec: Spec) -> str:
    """What the form has no widget for."""
    if more := sorted(set(spec) - {"name", "model", "task", "data", "methods", "training", "seeds", *RUNNING}):
        return f"The form has no field for {', '.join(more)}."
    if not isinstance(spec["model"], str) or isinstance(spec["data"], list):
        return "The form holds one data source and a base model by its name alone."
    data = spec["data"] if isinstance(spec["data"], Mapping) else {}
    if more := sorted(set(data) - {"source", "columns", "validation", "test", "limit"}):
        return f"The form has no field for data.{more[0]}."
    entries = [_entry(e) for e in spec["methods"]]
    for key in dict.fromkeys(e["method"] for e in entries):
        own = [e for e in entries if e["method"] == key]
        if len({e["preset"] for e in own}) > 1 or len(own) > MAX_VARIANTS:
            return f"The form holds one preset and at most {MAX_VARIANTS} variants of a method; {key} has more."
        if more := sorted({k for e in own for k in e["rest"]} & {"training", "label", "init_from"}):
            return f"The form has no field for {more[0]} of one method."
    return ""


def _base(spec: Spec) -> dict[str, Any]:
    task, data = spec["task"], spec["data"] if isinstance(spec["data"], Mapping) else {"source": spec["data"]}
    held: dict[str, Any] = {"build.name": spec["name"], "build.task": task, f"build.model.{task}": spec["model"]}
    held |= {f"build.data.{task}.": data["source"], "build.limit": data.get("limit")}
    held |= {f"build.{part}": forms.as_text(data[part]) for part in ("test", "validation") if part in data}
    return held | ({"build.columns": dict(data["columns"])} if data.get("columns") else {})


def _entry(written: Any) -> dict[str, Any]:
    """{method, preset, rest} of one line of `methods:`."""
    entry = {"method": written} if isinstance(written, str) else dict(written)
    rest = {k: v for k, v in entry.items() if k not in ("method", "preset")}
    return {"method": entry["method"], "preset": entry.get("preset") or "", "rest": rest}


def methods(written: Sequence[Any], task: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Widget values for the lines of `methods:`."""
    entries, listed = [_entry(e) for e in written], {one["key"]: one for one in found["methods"]}
    held: dict[str, Any] = {f"build.methods.{task}": list(dict.fromkeys(e["method"] for e in entries))}
    count: dict[str, int] = {}
    for entry in entries:
        key, preset = entry["method"], entry["preset"]
        number = count[key] = count.get(key, -1) + 1
        place = f"build.method.{key}.{preset}.{number}"
        held |= {f"build.method.{key}.preset": preset} if preset else {}
        held[f"build.method.{key}.copies"] = number + 1
        rest = dict(entry["rest"])
        held |= _modifiers(rest.pop("modifiers", []), place, found) | _recipe(rest.pop("recipe", None), place, found)
        held |= forms.held(listed[key]["schema"], f"{place}.config", {**rest.pop("config", {}), **rest})
    return held


def _modifiers(given: Sequence[Any], place: str, found: Mapping[str, Any]) -> dict[str, Any]:
    parts = {one["key"]: one for one in found["modifiers"]}
    entries = [{"modifier": m} if isinstance(m, str) else m for m in given]
    held: dict[str, Any] = {f"{place}.modifiers": [m["modifier"] for m in entries]} if entries else {}
    for one in entries:
        values = {k: v for k, v in one.items() if k != "modifier"}
        held |= forms.held(parts[one["modifier"]]["schema"], f"{place}.{one['modifier']}", values)
    return held


def _recipe(given: Any, place: str, found: Mapping[str, Any]) -> dict[str, Any]:
    if given is None:
        return {}
    one = {"recipe": given} if isinstance(given, str) else given
    schema = next(r for r in found["recipes"] if r["key"] == one["recipe"])["schema"]
    values = {k: v for k, v in one.items() if k != "recipe"}
    return {f"{place}.recipe": one["recipe"], **forms.held(schema, f"{place}.{one['recipe']}", values)}


def training(values: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Widget values for `training:` and the seeds."""
    held = forms.held(TrainingSpec.model_json_schema(), "build.training", values)
    return held | {"build.seeds": ", ".join(map(str, seeds))}


def use(starting: Spec, task: str, found: Mapping[str, Any]) -> None:
    """Methods, procedure and seeds of a starting point; everything else of the form stays. A widget's callback."""
    for key in [k for k in st.session_state if str(k).startswith(("build.method", "build.training."))]:
        del st.session_state[key]
    held = training(starting["training"], starting["seeds"]) | methods(starting["methods"], task, found)
    for key, value in held.items():
        st.session_state[key] = value
