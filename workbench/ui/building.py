"""The parts of the Build screen: each draws widgets and returns its part of the spec."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from workbench.core.errors import WorkbenchError
from workbench.core.spec import ExperimentSpec, TrainingSpec
from workbench.services import catalogue, data, files, suggestions
from workbench.ui import choosing, filling, forms, looking, notices, tables

FIRST = {
    "text_classification": ("bundled/minilm", "bundled/docstrings", ("lora", "head_only")),
    "causal_lm": ("bundled/lm", "bundled/docstrings", ("lora",)),
    "image_classification": ("bundled/vit", "bundled/digits", ("lora", "head_only")),
    "multiple_choice": ("bundled/lm", "bundled/choices", ("ia3", "head_only")),
}
"""Task -> what an untouched form starts with."""
BASIC = ("epochs", "max_steps", "batch_size", "learning_rate", "max_length", "early_stop")
HINTS = {"max_steps": "all", "early_stop": "never", "eval_every": "per epoch", "clip": "none"}
FILE_TYPES = ["csv", "tsv", "json", "jsonl", "parquet"]
Task = Mapping[str, Any]


@st.cache_data(ttl="1h", max_entries=4, show_spinner="Reading the catalogue…")
def known(code: str) -> dict[str, list[dict[str, Any]]]:
    """The catalogue for this state of the code."""
    return catalogue.everything()


@st.cache_data(ttl="60s", max_entries=32, show_spinner="Reading the data…")
def preview(spec: Mapping[str, Any], task: str) -> dict[str, Any]:
    """The first rows, the mapping and the doctor's findings; asked once for the same question."""
    return data.ask(dict(spec), task, rows=8)


def base() -> tuple[str, Task, str]:
    """Name, task and model."""
    found = known(catalogue.code_hash())
    left, right = st.columns(2)
    name = left.text_input(
        "Experiment", "my-experiment", key="build.name", persist_state="session", help="Letters, digits and . _ -"
    )
    tasks = {one["key"]: one for one in found["tasks"]}
    start = list(tasks).index("text_classification") if "text_classification" in tasks else 0
    task = right.selectbox(
        "Task",
        list(tasks),
        start,
        key="build.task",
        format_func=lambda k: tasks[k]["title"].partition(":")[0],
        persist_state="session",
    )
    bundled, first = data.bundled()["models"], FIRST.get(task, ("bundled/minilm", "", ()))[0]
    model = st.selectbox(
        "Base model", bundled, bundled.index(first), key=f"build.model.{task}", accept_new_options=True, persist_state="session",
        help="A bundled model, a Hub id such as org/name, or the path of a folder.", placeholder="bundled/…, Hub id or folder",
    )  # fmt: skip
    return name.strip(), tasks[task], (model or "").strip()


def source(task: Task, model: str) -> tuple[dict[str, Any], bool]:
    """Where the rows come from, their columns and splits, with a preview; False where they cannot be used."""
    key, options = task["key"], data.bundled()["data"]
    left, right = st.columns([2, 1], vertical_alignment="bottom")
    with right.popover("Upload", icon=":material/upload:", width="stretch"), notices.shown():
        uploaded = st.file_uploader("A file from your machine", FILE_TYPES, key="build.upload")
        if uploaded is not None:
            options = [str(files.upload(uploaded.name, uploaded.getvalue())), *options]
    first = 0 if uploaded is not None else options.index(FIRST[key][1]) if key in FIRST else 0
    place = left.selectbox(
        "Source", options, first, key=f"build.data.{key}.{uploaded.file_id if uploaded else ''}", accept_new_options=True,
        format_func=lambda p: Path(p).name + " (uploaded)" if p.startswith("/") and "/uploads/" in p else p,
        help="A bundled data set, the path of a file or folder, or a Hub id[:config].", persist_state="session",
    )  # fmt: skip
    places = st.columns(3)
    limit = places[0].number_input(
        "Use at most",
        1,
        None,
        1000,
        key="build.limit",
        placeholder="all rows",
        help="Training rows; empty means all.",
        persist_state="session",
    )
    test = places[1].text_input(
        "Test split", "0.2", key="build.test", help="Fraction, file or split name: the headline number.", persist_state="session"
    )
    held = places[2].text_input(
        "Validation split", "0.1", key="build.validation", help="For tuning and early stopping only.", persist_state="session"
    )
    spec = {"source": (place or "").strip(), **({"limit": limit} if limit else {})}
    spec |= {
        name: forms.parse_text(text)
        for name, text, usual in (("validation", held, "0.1"), ("test", test, "0.2"))
        if text.strip() != usual
    }
    return _previewed(spec, task, model)


def _previewed(spec: dict[str, Any], task: Task, model: str) -> tuple[dict[str, Any], bool]:
    if not spec["source"]:
        notices.problem("data must name a source; choose a bundled data set, upload a file, or type a path.")
        return spec, False
    with notices.shown():
        found = preview(spec, task["key"])
        chosen = _columns(found, task)
        if chosen != found["mapping"]:
            spec["columns"] = chosen
            found = preview(spec, task["key"])
        if found["problem"]:
            notices.problem(found["problem"])
        looking.looks(found, spec, task["key"], model)
        return spec, not found["problem"]
    return spec, False


def _columns(found: Mapping[str, Any], task: Task) -> dict[str, str]:
    """Which column plays which part; the guess, with its reason, is the start."""
    start = {**found["proposed"], **found["mapping"]}
    start |= {p: c for p, c in st.session_state.get("build.columns", {}).items() if c in found["columns"]}
    fits = [p for p in task["parts"] if set(start) & set(p)] or task["parts"]
    parts = max(fits, key=lambda p: len(set(start) & set(p)))
    chosen: dict[str, str] = {}
    for place, (part, need) in zip(st.columns(max(len(parts), 3)), parts.items()):
        options = [*([] if need == "required" and part in start else [""]), *found["columns"]]
        key = f"build.column.{part}.{','.join(found['columns'])}"
        name = place.selectbox(
            f"Column of {part.replace('_', ' ')}", options, options.index(start.get(part, "")), key=key,
            format_func=lambda c: c or "none", persist_state="session", help=found["reasons"].get(part),
        )  # fmt: skip
        if name:
            chosen[part] = name
    if said := [found["reasons"][part].rstrip(".") for part in chosen if part in found["reasons"]]:
        st.caption(notices.plain(f"Guessed: {'; '.join(said)}."))
    return chosen


def methods(task: Task, model: str, source: Mapping[str, Any]) -> list[Any]:
    """The chosen methods as entries of the spec, each with its form."""
    found, key = known(catalogue.code_hash()), task["key"]
    entries = {one["key"]: one for one in found["methods"]}
    first = [name for name in FIRST.get(key, ("", "", ("lora",)))[2] if name in entries]
    left, middle, right = st.columns([6, 3, 3], vertical_alignment="bottom")
    with middle:
        offered = choosing.offered(found["methods"], model, key)
    with right:
        choosing.starting_points(lambda: _facts(source, key, model), model, key, found)
    held = st.session_state.get(f"build.methods.{key}", first)
    options = [name for name in entries if name in offered or name in held]  # a filter never drops what is chosen
    chosen = left.multiselect(
        "Methods to compare", options, first, key=f"build.methods.{key}", persist_state="session",
        placeholder="Type to search the catalogue", help="The Methods page explains each one.",
    )  # fmt: skip
    return [entry for name in chosen for entry in _method(entries[name], found)]


def _facts(source: Mapping[str, Any], task: str, model: str) -> dict[str, Any]:
    """What starting points are made from."""
    return suggestions.facts(preview(source, task), looking.tokens(source, task, model, looking.length()))


def _method(entry: Mapping[str, Any], found: Mapping[str, Any]) -> list[Any]:
    key, (name, sentence) = f"build.method.{entry['key']}", tables.split_title(entry)
    with st.expander(f"**{entry['key']}** · {name if name != entry['key'] else sentence}"):
        st.caption(notices.plain(notices.capital(sentence)))
        left, right = st.columns([2, 1], vertical_alignment="bottom")
        options = ["", *entry["presets"]]
        preset = (
            left.selectbox("Preset", options, key=f"{key}.preset", format_func=lambda p: p or "none", persist_state="session")
            if entry["presets"]
            else ""
        )
        copies = right.number_input(
            "Variants",
            1,
            filling.MAX_VARIANTS,
            key=f"{key}.copies",
            help="Compare this method with several settings.",
            persist_state="session",
        )
        values = next((one["values"] for one in found["methods"] if one["key"] == preset), entry["values"])
        places = st.tabs([f"Variant {i + 1}" for i in range(copies)]) if copies > 1 else [st.container()]
        made = []
        for number, place in enumerate(places):
            with place, notices.shown():
                made.append(_variant(entry, preset, values, f"{key}.{preset}.{number}", found))
        return made


def _variant(entry: Mapping[str, Any], preset: str, values: Mapping[str, Any], key: str, found: Mapping[str, Any]) -> Any:
    hints = {
        "roles": "default: " + (", ".join(entry["roles"]) or "all that fit"),
        "depths": "every block, e.g. 0-3, 5",
        "tower": "all",
    }
    settings = forms.config_form(entry["schema"], f"{key}.config", values, hints=hints)
    made: dict[str, Any] = {"method": entry["key"], **({"preset": preset} if preset else {}), **settings}
    with st.popover("Modifiers and recipe", icon=":material/tune:", width="content"):
        parts = {one["key"]: one for one in found["modifiers"]}
        modifiers = []
        for name in st.multiselect("Modifiers", list(parts), key=f"{key}.modifiers", persist_state="session"):
            modifiers.append({"modifier": name, **forms.config_form(parts[name]["schema"], f"{key}.{name}", columns=1)})
        recipes = {one["key"]: one for one in found["recipes"] if one["key"] != "standard"}
        recipe = st.selectbox(
            "Recipe", ["", *recipes], key=f"{key}.recipe", format_func=lambda r: r or "standard", persist_state="session"
        )
        if modifiers:
            made["modifiers"] = modifiers
        if recipe:
            made["recipe"] = {"recipe": recipe, **forms.config_form(recipes[recipe]["schema"], f"{key}.{recipe}", columns=1)}
    return entry["key"] if made == {"method": entry["key"]} else made


def training() -> tuple[dict[str, Any], list[int]]:
    """The procedure, what differs from the usual only, and the seeds."""
    schema = TrainingSpec.model_json_schema()
    given = forms.config_form(schema, "build.training", only=BASIC, hints=HINTS)
    with st.expander("More of the training"):
        rest = [name for name in schema["properties"] if name not in (*BASIC, "keep_checkpoints")]
        given |= forms.config_form(schema, "build.training", only=rest, hints=HINTS)
    text = st.text_input(
        "Seeds",
        "0, 1, 2",
        key="build.seeds",
        help="One run per method and seed; two or more give an interval.",
        persist_state="session",
    )
    return given, seeds(text)


def running() -> dict[str, Any]:
    """How the runs are queued, what differs from the usual only."""
    with st.expander("Device and queue"):
        return forms.config_form(ExperimentSpec.model_json_schema(), "build.running", only=filling.RUNNING, columns=2)


def seeds(text: str) -> list[int]:
    """`0, 1, 2` or `0-2` as numbers.

    Raises:
        WorkbenchError: something else stands there.
    """
    found: list[int] = []
    for part in filter(None, re.split(r"[\s,]+", text.strip())):
        match = re.fullmatch(r"(\d{1,10})(?:-(\d{1,10}))?", part)
        if not match or (match[2] and not 0 <= int(match[2]) - int(match[1]) < 1000):
            raise WorkbenchError(f"seeds must be whole numbers with commas, such as 0, 1, 2 or 0-4; got {text[:40]!r}.")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def spec(
    name: str,
    model: str,
    task: str,
    source: Mapping[str, Any],
    entries: Sequence[Any],
    given: Mapping[str, Any],
    numbers: Sequence[int],
    queued: Mapping[str, Any],
) -> dict[str, Any]:
    """The parts as one spec, in the order in which one writes it."""
    made = {"name": name, "model": model, "task": task, "data": dict(source), "methods": list(entries)}
    return {**made, **({"training": dict(given)} if given else {}), "seeds": list(numbers), **queued}
