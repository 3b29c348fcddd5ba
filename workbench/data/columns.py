"""Which column of a source plays which part of a task."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.core.errors import WorkbenchError

Wanted = Mapping[str, Any]
"""Part -> True or "required", False or "optional"."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "text": ("text", "sentence", "content", "review", "document", "body", "sentence1", "premise", "text_a"),
    "text_pair": ("text_pair", "sentence2", "hypothesis", "text_b"),
    "label": ("label", "labels", "category", "class", "target", "topic", "sentiment", "intent"),
    "prompt": ("prompt", "instruction", "question", "input", "query"),
    "completion": ("completion", "response", "output", "answer", "target"),
    "messages": ("messages", "conversation", "conversations", "chat"),
    "choices": ("choices", "options", "answers", "endings"),
    "answer": ("answer", "label", "labels", "correct", "correct_answer", "gold", "target"),
    **{f"choice_{letter}": (f"choice_{letter}", f"option_{letter}", f"answer_{letter}", letter) for letter in "abcde"},
    "image": ("image", "img", "picture", "file_name", "image_path", "path"),
}
"""Whole names only, best first; compared without case, blanks, dashes and underscores."""

KINDS = {"label": "label", "image": "image", "messages": "messages", "choices": "choices"}
"""What a part holds where the task does not say; every other part is text."""


@dataclass(frozen=True)
class Mapped:
    """`columns`: part -> column; `reasons`: part -> why, as a phrase that follows the column's name."""

    columns: dict[str, str]
    reasons: dict[str, str]


def is_required(want: Any) -> bool:
    """Whether a task's entry for a part means that it cannot do without."""
    return want is True or want == "required"


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c not in " -_")


def guess(present: Iterable[str], wanted: Wanted) -> Mapped:
    """Find columns by their whole names: the part's own name first, then its known synonyms.

    Args:
        present: column names of the source.
        wanted: the task's parts.

    Returns:
        The parts that were found; a required one may be missing.
    """
    by_name: dict[str, list[str]] = {}
    for column in present:
        by_name.setdefault(_plain(column), []).append(column)
    columns: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for part in wanted:
        for name in (part, *SYNONYMS.get(part, ())):
            found = [c for c in by_name.get(_plain(name), ()) if c not in columns.values()]
            if len(found) == 1:
                columns[part] = found[0]
                reasons[part] = "has that name" if _plain(name) == _plain(part) else f"is a known name for {part}"
                break
    return Mapped(columns, reasons)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(n[:40]) for n in names[:12])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > 12 else shown


def _missing(part: str, column: str, present: Sequence[str], what: str) -> WorkbenchError:
    near = difflib.get_close_matches(column, present, n=1, cutoff=0.5)
    hint = f"; closest: {near[0]!r}" if near else ""
    return WorkbenchError(f"{what} must have the column {column!r} for {part}; it has {_listed(present)}{hint}.")


def _given(present: Sequence[str], wanted: Wanted, given: Mapping[str, str], what: str) -> Mapped:
    """Check a mapping the person wrote; parts left out are guessed among the remaining columns."""
    for part, column in given.items():
        if part not in wanted:
            raise WorkbenchError(f"columns names the part {part!r}; this task knows {', '.join(wanted)}.")
        if column not in present:
            raise _missing(part, column, present, what)
    used = list(given.values())
    if len(set(used)) != len(used):
        twice = next(c for c in used if used.count(c) > 1)
        raise WorkbenchError(f"columns must give every part a column of its own; {twice!r} is named twice.")
    open_parts = {part: want for part, want in wanted.items() if part not in given and is_required(want)}
    found = guess([c for c in present if c not in used], open_parts)
    reasons = {**dict.fromkeys(given, "was chosen"), **found.reasons}
    return Mapped({**given, **found.columns}, reasons)


def map_columns(present: Sequence[str], wanted: Wanted | Sequence[Wanted], given: Mapping[str, str] | None, what: str) -> Mapped:
    """The mapping the person gave, or the guess; complete, or an error.

    Args:
        present: column names of the source.
        wanted: the task's parts, or several alternatives in order of preference.
        given: part -> column as the person wrote it; None = guess everything.
        what: how to call the source in an error.

    Raises:
        WorkbenchError: a required part has no column; lists those present and the closest.
    """
    choices = [wanted] if isinstance(wanted, Mapping) else list(wanted)
    if given:
        choices = [c for c in choices if set(given) <= set(c)] or choices[:1]
    for choice in choices:
        mapped = _given(present, choice, given, what) if given else guess(present, choice)
        if all(part in mapped.columns for part, want in choice.items() if is_required(want)):
            return mapped
    lacking = [part for part, want in choices[0].items() if is_required(want) and part not in mapped.columns] or list(choices[0])
    if len(choices) > 1:
        ways = " or ".join("{" + ", ".join(p for p, w in c.items() if is_required(w)) + "}" for c in choices)
        raise WorkbenchError(f"{what} must have columns for {ways}; it has {_listed(present)}: name them under data.columns.")
    part = lacking[0]
    near = difflib.get_close_matches(part, present, n=1, cutoff=0.5)
    hint = f" (closest: {near[0]!r})" if near else ""
    raise WorkbenchError(
        f"{what} must have a column for {part}; it has {_listed(present)}{hint}: write data.columns: {{{part}: <column>}}."
    )
