"""The answers that a row offers, as a list or a column each, and which of them is right."""

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.core.errors import WorkbenchError

COLUMNS = {"choice_a": True, "choice_b": True, "choice_c": False, "choice_d": False, "choice_e": False}
"""Parts with one answer each, in order, and whether a row must have them; instead of a list in one column."""


def offered(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The answers of a row, in order, without outer blanks; empty where it has none."""
    if "choices" in row:
        return tuple(choice.strip() for choice in row["choices"])
    return tuple(row[part].strip() for part in COLUMNS if row.get(part))


def right(choices: Sequence[str], answer: str) -> int:
    """Which choice an answer means: its own text, its number from 0, or its letter.

    Raises:
        WorkbenchError: it means none, or two of them.
    """
    answer = answer.strip()
    said = {i for i, choice in enumerate(choices) if choice == answer}
    if answer.isascii() and answer.isdecimal():
        said.add(int(answer))
    if len(answer) == 1 and answer.isascii() and answer.isalpha():
        said.add(ord(answer.lower()) - ord("a"))
    found = [i for i in sorted(said) if i < len(choices)]
    if len(found) != 1:
        means = "none of them" if not found else f"both {choices[found[0]]!r:.60} and {choices[found[1]]!r:.60}"
        raise WorkbenchError(
            f"an answer must be one of its row's {len(choices)} choices, its number from 0 or its letter; "
            f"{answer!r:.60} means {means}."
        )
    return found[0]


def check(parts: Mapping[str, Sequence[Any]]) -> None:
    """Refuse rows that cannot be asked.

    Args:
        parts: the task's columns, with `answer` where it is known.

    Raises:
        WorkbenchError: for the first row without two different choices, with a gap in them, or with an unclear answer.
    """
    names = [part for part in ("choices", *COLUMNS) if part in parts]
    for number, cells in enumerate(zip(*(parts[name] for name in names), strict=True), 1):
        if (problem := _problem(dict(zip(names, cells, strict=True)))) is not None:
            raise WorkbenchError(f"row {number} must offer at least two different choices without a gap; it {problem}.")
        if "answer" in parts:
            _checked_answer(number, offered(dict(zip(names, cells, strict=True))), parts["answer"][number - 1])


def _problem(row: Mapping[str, Any]) -> str | None:
    choices = offered(row)
    alone = [part for part in COLUMNS if part in row]
    if [bool(row[part]) for part in alone] != sorted((bool(row[part]) for part in alone), reverse=True):
        return "leaves one out before the last"
    if not all(choices):
        return "has an empty one"
    if len(choices) < 2 or len(set(choices)) < len(choices):
        return f"has {', '.join(map(repr, choices))[:120] or 'none'}"
    return None


def _checked_answer(number: int, choices: Sequence[str], answer: str) -> None:
    try:
        right(choices, answer)
    except WorkbenchError as error:
        raise WorkbenchError(f"row {number}: {error}") from None
