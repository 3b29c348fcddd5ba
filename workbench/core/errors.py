"""The errors a person sees: one sentence that says what must be, what it got and what to do."""

import difflib
from collections.abc import Iterable

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


def _sentence(where: str, problem: dict, options: Iterable[str]) -> str:
    steps = [str(p) for p in problem["loc"] if not str(p).startswith("<")]  # <...> names an alternative of a union, not a key
    place = ".".join([where, *steps])
    kind, ctx, got = problem["type"], problem.get("ctx", {}), problem.get("input")
    if kind == "extra_forbidden":
        key = str(problem["loc"][-1])
        near = difflib.get_close_matches(key, list(options), n=2, cutoff=0.5)
        hint = f"closest: {', '.join(near)}" if near else f"known: {', '.join(sorted(options))}"
        return f"{place} is not a known key; {hint}."
    if kind == "missing":
        return f"{place} is required but missing."
    limits = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}
    for name, words in limits.items():
        if name in ctx:
            return f"{place} must be {words} {ctx[name]}; got {got!r}."
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ").rstrip(".")
    if kind == "value_error":
        return f"{place}: {message}."
    return f"{place} must be {message}; got {repr(got)[:80]}."


def from_pydantic(error: ValidationError, where: str, options: Iterable[str] = ()) -> WorkbenchError:
    """Translate pydantic's first complaint into the project's one-sentence form.

    Args:
        error: what pydantic raised.
        where: name of the value that was checked, e.g. `training` or `lora`.
        options: keys that would have been known at the top level, for suggestions.
    """
    return WorkbenchError(_sentence(where, error.errors()[0], options))
