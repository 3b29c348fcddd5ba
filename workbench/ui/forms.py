"""From a JSON Schema to widgets: what a Config says about its fields is all that a form needs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import streamlit as st

from workbench.core.errors import WorkbenchError
from workbench.core.types import ROLES

Kind = Literal["choice", "toggle", "share", "integer", "number", "text", "list", "roles"]
EDGE = 1e-6  # how far an excluded bound is moved inwards


@dataclass(frozen=True)
class Field:
    """One widget.

    Attributes:
        name, title, help: key, label and description.
        kind: which widget.
        default: the value that an untouched form means.
        low, high: inclusive bounds, None where there is none.
        options: of a choice or of roles.
        optional: empty is allowed and means null.
    """

    name: str
    title: str
    help: str
    kind: Kind
    default: Any = None
    low: float | None = None
    high: float | None = None
    options: tuple[str, ...] = ()
    optional: bool = False


def fields(schema: Mapping[str, Any]) -> list[Field]:
    """The widgets of an object's JSON Schema, in its order."""
    return [_field(name, spec, schema.get("$defs", {})) for name, spec in schema.get("properties", {}).items()]


def _field(name: str, spec: Mapping[str, Any], defs: Mapping[str, Any]) -> Field:
    branches = [_resolved(b, defs) for b in spec.get("anyOf", [spec])]
    real = [b for b in branches if b.get("type") != "null"]
    one = {**spec, **real[0]} if len(real) == 1 else {}
    kind = _kind(name, one)
    low, high = _bounds(one, whole=kind == "integer")
    options = tuple(map(str, one.get("enum", ROLES if kind == "roles" else ())))
    title = str(spec.get("title") or name).replace("_", " ")
    title = title[:1].upper() + title[1:].lower()
    return Field(
        name, title, str(spec.get("description", "")), kind, spec.get("default"), low, high, options, len(real) < len(branches)
    )


def _resolved(branch: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any]:
    return defs.get(str(branch["$ref"]).rpartition("/")[2], {}) if "$ref" in branch else branch


def _kind(name: str, spec: Mapping[str, Any]) -> Kind:
    what = spec.get("type")
    if "enum" in spec:
        return "choice"
    if what == "array":
        return "roles" if name == "roles" else "list"
    if what == "number":
        low, high = _bounds(spec, whole=False)
        return "share" if low is not None and high is not None and low >= -EDGE and high <= 1 + EDGE else "number"
    return {"boolean": "toggle", "integer": "integer"}.get(str(what), "text")  # type: ignore[return-value]


def _bounds(spec: Mapping[str, Any], whole: bool) -> tuple[float | None, float | None]:
    nudge = 1 if whole else EDGE
    low = spec.get("minimum", spec["exclusiveMinimum"] + nudge if "exclusiveMinimum" in spec else None)
    high = spec.get("maximum", spec["exclusiveMaximum"] - nudge if "exclusiveMaximum" in spec else None)
    return low, high


def config_form(
    schema: Mapping[str, Any],
    key: str,
    values: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
    columns: int = 3,
    hints: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Draw a form and return what the person changed; an untouched form returns nothing.

    Args:
        schema: JSON Schema of an object.
        key: beginning of the widgets' keys, unique on the page.
        values: defaults that differ from the schema's (a preset's).
        only: names to show; empty = all.
        columns: widgets beside each other.
        hints: name -> what stands in an empty widget.

    Raises:
        WorkbenchError: what stands in a list cannot be read.
    """
    wanted = [f for f in fields(schema) if not only or f.name in only]
    given: dict[str, Any] = {}
    places = st.columns(columns) if wanted else []
    for i, field in enumerate(wanted):
        default = (values or {}).get(field.name, field.default)
        with places[i % columns]:
            found = draw(field, f"{key}.{field.name}", default, (hints or {}).get(field.name, ""))
        if found != default and not (found in (None, [], "") and default in (None, [], ())):
            given[field.name] = found
    return given


def held(schema: Mapping[str, Any], key: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Widget keys and values that make `config_form` show these values; names that the schema lacks are left out."""
    shown = {f.name: f for f in fields(schema)}
    return {f"{key}.{n}": _typed(shown[n], v) for n, v in values.items() if n in shown}


def _typed(field: Field, value: Any) -> Any:
    """A value as its widget holds it."""
    if field.kind in ("text", "list"):
        return as_text(value)
    if field.kind == "roles":
        return list(value or [])
    return float(value) if field.kind in ("number", "share") and value is not None else value


def draw(field: Field, key: str, default: Any, hint: str = "") -> Any:
    """One widget; returns the field's value, None where an optional one is empty."""
    shared: dict[str, Any] = {"key": key, "help": field.help or None}
    kept = {**shared, "persist_state": "session"}
    empty = hint or ("default" if field.optional else None)
    match field.kind:
        case "toggle":
            return st.toggle(field.title, bool(default), **shared)
        case "choice":
            options = [*([None] if field.optional else []), *field.options]
            shown = {None: empty or "none"}
            return st.selectbox(field.title, options, options.index(default), format_func=lambda o: shown.get(o, o), **kept)
        case "roles":
            return st.multiselect(field.title, field.options, default or [], placeholder=empty or "default", **kept) or None
        case "integer" | "number" | "share":
            return _number(field, default, empty, kept)
    text = st.text_input(field.title, as_text(default), placeholder=empty, **kept).strip()
    if field.kind == "list":
        return parse_list(text) or None
    return parse_text(text) if text else None


def _number(field: Field, default: Any, empty: str | None, kept: Mapping[str, Any]) -> int | float | None:
    whole = field.kind == "integer"
    cast = int if whole else float
    low, high = (None if bound is None else cast(bound) for bound in (field.low, field.high))
    step = 1 if whole else 0.05 if field.kind == "share" else None
    found = st.number_input(
        field.title,
        low,
        high,
        None if default is None else cast(default),
        step,
        "%d" if whole else "%g",
        placeholder=empty,
        **kept,
    )
    return default if found is None and not field.optional else found


def as_text(value: Any) -> str:
    """A value as one types it: lists with commas."""
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def parse_text(text: str) -> Any:
    """A number where it reads as one; several with commas are a list; else the text."""
    if "," in text:
        return parse_list(text)
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float) and not isinstance(value, bool) else text


def parse_list(text: str) -> list[Any]:
    """`0, 2-4` as [0, "2-4"].

    Raises:
        WorkbenchError: an entry is empty.
    """
    if not text.strip():
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise WorkbenchError(f"a list must be values with commas between them; got {text[:60]!r}.")
    return [parse_text(part) for part in parts]
