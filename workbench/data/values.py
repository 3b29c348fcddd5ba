"""The cells of a mapped column as what a task expects: texts, labels, chats, choices. Missing are counted, never invented."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from workbench.core.errors import WorkbenchError

ROLES = ("system", "user", "assistant")


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or (isinstance(value, str) and not value.strip())


def refuse_missing(values: Sequence[Any], column: str, part: str) -> None:
    """Raise if any cell is empty; says how many are and which is the first."""
    missing = [i for i, value in enumerate(values) if _is_missing(value)]
    if missing:
        rows = "1 row lacks" if len(missing) == 1 else f"{len(missing):,} of {len(values):,} rows lack"
        raise WorkbenchError(
            f"column {column!r} must have a {part} in every row; {rows} it (first: row {missing[0] + 1}): "
            "fill them in or remove them."
        )


def _clean(value: str, column: str, row: int) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise WorkbenchError(
            f"column {column!r} must hold valid Unicode; row {row + 1} holds half a character (lone surrogate): repair it."
        ) from None
    return value


def _scalar(value: Any, column: str, row: int, part: str) -> str:
    if isinstance(value, str):
        return _clean(value, column, row)
    if isinstance(value, float) and math.isinf(value):
        raise WorkbenchError(f"column {column!r} must hold a {part} in every row; row {row + 1} is infinite: correct it.")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, bool | int | float):
        return str(value)
    raise WorkbenchError(f"column {column!r} must hold plain text for {part}; row {row + 1} is {type(value).__name__}.")


def texts(values: Sequence[Any], column: str, part: str, required: bool = True) -> list[str]:
    """Texts; numbers are written out, and a missing optional one becomes the empty text."""
    if required:
        refuse_missing(values, column, part)
    return ["" if _is_missing(v) else _scalar(v, column, i, part) for i, v in enumerate(values)]


def labels(values: Sequence[Any], column: str, part: str = "label", required: bool = True) -> list[str]:
    """Class names as text without surrounding blanks; 1, 1.0 and "1" are one class."""
    refuse_missing(values, column, part)
    return [_scalar(v, column, i, part).strip() for i, v in enumerate(values)]


def check_classes(names: Sequence[str], column: str) -> None:
    """Refuse a training column with a single class, or with so many that it can hold no classes."""
    distinct = set(names)
    if len(distinct) == 1:
        raise WorkbenchError(f"column {column!r} must hold at least two different labels; every row says {names[0][:60]!r}.")
    if len(distinct) > 50 and len(distinct) > len(names) / 2:
        raise WorkbenchError(
            f"column {column!r} must hold classes that repeat; it has {len(distinct):,} different values in {len(names):,} rows: "
            "choose another column for label."
        )
    long = next((name for name in names if len(name) > 500), None)
    if long:
        raise WorkbenchError(f"column {column!r} must hold class names of at most 500 characters; one begins {long[:40]!r}.")


def natural(names: set[str]) -> tuple[str, ...]:
    """Sorted labels: by value when all are whole numbers, else alphabetically."""

    def is_whole(name: str) -> bool:
        return name.lstrip("-").isdecimal() and name.isascii() and len(name) < 20

    if all(is_whole(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _message(turn: Any, column: str, row: int) -> dict[str, str]:
    """One turn as {role, content}; the {from, value} form of older chat data is accepted."""
    if isinstance(turn, dict) and "from" in turn and "value" in turn:
        known = {"human": "user", "gpt": "assistant"}
        turn = {"role": known.get(turn["from"], turn["from"]), "content": turn["value"]}
    if not isinstance(turn, dict) or turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
        raise WorkbenchError(
            f"column {column!r} must hold lists of {{role: {'|'.join(ROLES)}, content: text}}; row {row + 1} has "
            f"{str(turn)[:80]!r}."
        )
    return {"role": turn["role"], "content": _clean(turn["content"], column, row)}


def messages(values: Sequence[Any], column: str, part: str = "messages", required: bool = True) -> list[list[dict[str, str]]]:
    """Conversations with at least one assistant turn that says something."""
    refuse_missing(values, column, part)
    conversations = []
    for row, value in enumerate(values):
        if not isinstance(value, list | tuple):
            got = type(value).__name__
            raise WorkbenchError(f"column {column!r} must hold a list of messages; row {row + 1} is {got}: use jsonl.")
        turns = [_message(turn, column, row) for turn in value]
        if not any(turn["role"] == "assistant" and turn["content"].strip() for turn in turns):
            raise WorkbenchError(f"column {column!r} must hold conversations with an assistant's answer; row {row + 1} has none.")
        conversations.append(turns)
    return conversations


def choices(values: Sequence[Any], column: str, part: str = "choices", required: bool = True) -> list[list[str]]:
    """Lists of answers as text without surrounding blanks."""
    refuse_missing(values, column, part)
    for row, value in enumerate(values):
        if not isinstance(value, list | tuple):
            got = type(value).__name__
            raise WorkbenchError(
                f"column {column!r} must hold a list of answers; row {row + 1} is {got}: use jsonl, or a column for each answer."
            )
    return [[_scalar(answer, column, row, part).strip() for answer in value] for row, value in enumerate(values)]


CHECKS: dict[str, Callable[..., list]] = {"text": texts, "label": labels, "messages": messages, "choices": choices}
"""Kind of a part -> (values, column, part, required) -> checked values; images have their own file."""
