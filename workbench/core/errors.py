"""The errors a person sees: one sentence that says what must be, what it got and what to do."""

import difflib
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from workbench.core.text import line


class WorkbenchError(Exception):
    """Something a person asked for cannot be done; the message is one complete sentence, whatever it quotes."""

    def __init__(self, sentence: str = "") -> None:
        super().__init__(line(sentence))


class NotBuiltYet(WorkbenchError):
    """The command exists in the outside contract, but a later version builds it (exit code 3)."""


def unknown(kind: str, name: object, options: Iterable[str]) -> WorkbenchError:
    """The error for a name that is not among `options`, with the closest ones."""
    known = sorted(options)
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    hint = f"closest: {', '.join(near)}" if near else f"known: {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}"
    return WorkbenchError(f"no {kind} is called {str(name)!r}; {hint}.")


KINDS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "a whole number"),
        **dict.fromkeys(("float_parsing", "float_type"), "a number"),
        **dict.fromkeys(("tuple_type", "list_type"), "a list"),
        **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "a mapping (key: value)"),
        **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
        "finite_number": "a finite number",
        "string_type": "text",
    }
)
"""pydantic's type of a complaint -> what must be, in words."""
_ALTERNATIVE = re.compile(r"<.*>|float|int|str|bool|(literal|tuple|list|dict)\[.*\]")
"""A step of a place that names an alternative of a union, not a key."""


def _wanted(problem: Mapping[str, Any]) -> str:
    """What must be, as the end of `must be ...`."""
    told = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ").rstrip(".")
    return KINDS.get(problem["type"], told)


def _sentence(where: str, problem: Mapping[str, Any], options: Iterable[str]) -> str:
    place = ".".join([where, *(str(p) for p in problem["loc"] if not _ALTERNATIVE.fullmatch(str(p)))])
    kind, ctx, got = problem["type"], problem.get("ctx", {}), problem.get("input")
    if kind == "extra_forbidden":
        key = str(problem["loc"][-1])
        near = difflib.get_close_matches(key, list(options), n=2, cutoff=0.5)
        hint = f"closest: {', '.join(near)}" if near else f"known: {', '.join(sorted(options))}"
        return f"{place} is not a known key; {hint}."
    if kind == "missing":
        return f"{place} is required but missing; add it."
    limits = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}
    for name, words in limits.items():
        if name in ctx:
            return f"{place} must be {words} {ctx[name]}; got {got!r}."
    if kind == "value_error":
        return f"{place}: {_wanted(problem)}."
    if kind in ("too_short", "too_long"):
        bound = f"at least {ctx['min_length']}" if kind == "too_short" else f"at most {ctx['max_length']}"
        return f"{place} must hold {bound} of them; got {ctx['actual_length']}."
    if kind in ("string_too_short", "string_too_long"):
        return f"{place} must be text of {_wanted(problem).partition('have ')[2]}; got {repr(got)[:80]}."
    return f"{place} must be {_wanted(problem)}; got {repr(got)[:80]}."


def from_pydantic(error: ValidationError, where: str, options: Iterable[str] = ()) -> WorkbenchError:
    """Translate pydantic's first complaint into the project's one-sentence form.

    Args:
        error: what pydantic raised.
        where: name of the value that was checked, e.g. `training` or `lora`.
        options: keys that would have been known at the top level, for suggestions.
    """
    first, *rest = error.errors()
    if first["type"] in KINDS and _ALTERNATIVE.fullmatch(str(first["loc"][-1])):  # no alternative of a union fits: name them all
        others = [_wanted(one) for one in rest if one["loc"][:-1] == first["loc"][:-1]]
        return WorkbenchError(_sentence(where, {**first, "type": "", "msg": " or ".join([_wanted(first), *others])}, options))
    return WorkbenchError(_sentence(where, first, options))
