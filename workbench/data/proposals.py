"""Why a column plays a part, told from its cells; and which columns could play the parts that no name settles."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from statistics import median
from typing import Any

from workbench.data.columns import KINDS, Mapped, Wanted, is_required
from workbench.data.findings import text, turns
from workbench.data.images import SUFFIXES

LOOKED = 2000
"""Cells of a column that are looked at: an even sample."""
WORDY = 12
"""Characters that the middle cell of a column of texts has at least."""
CLASSES = 50
"""Different values that a column of labels has at most."""
HOLDS = {"image": "images", "messages": "conversations", "choices": "lists of answers"}
"""Kinds that a cell alone can tell, and how they are called."""
Columns = Mapping[str, Sequence[Any]]


def _sample(cells: Sequence[Any]) -> list[Any]:
    return list(cells[:: max(1, -(-len(cells) // LOOKED))])


def _length(cells: Sequence[Any]) -> float:
    """Characters of the middle cell; 0 for a column that holds no texts."""
    some = _sample(cells)
    return median(len(c) if isinstance(c, str) else 0 for c in some) if some else 0


def _holds(cell: Any, kind: str) -> bool:
    if kind == "image":
        named = isinstance(cell, str) and PurePath(cell).suffix.lower() in SUFFIXES
        return named or isinstance(cell, PurePath) or hasattr(cell, "shape") or (isinstance(cell, dict) and "bytes" in cell)
    if kind == "choices":
        return isinstance(cell, list | tuple) and len(cell) > 1 and all(isinstance(one, str) for one in cell)
    return bool(turns(cell))


def _classes(cells: Sequence[Any]) -> int:
    """Different values of a column, each occurring about twice or more; 0 for a column that cannot hold classes."""
    some = [text(c).strip() for c in _sample(cells) if isinstance(c, str | int | float)]
    distinct = len(set(some))
    return distinct if 1 < distinct <= min(CLASSES, len(some) / 2) else 0


def propose(raw: Columns, wanted: Wanted | Sequence[Wanted], mapped: Mapped) -> Mapped:
    """Columns for the required parts without one, by what the cells look like.

    Nothing of this is in force: a wrong guess would train on the wrong column, so a person has to take it over.

    Args:
        raw: the source's columns.
        wanted: the task's parts, or several alternatives in order of preference.
        mapped: what is settled already.

    Returns:
        Columns and reasons for the parts of the first alternative that can be completed; empty if none can.
    """
    for choice in [wanted] if isinstance(wanted, Mapping) else wanted:
        missing = [part for part, want in choice.items() if is_required(want) and part not in mapped.columns]
        if not set(mapped.columns) <= set(choice):
            continue
        found = _fitting({c: v for c, v in raw.items() if c not in mapped.columns.values()}, missing)
        if set(found.columns) == set(missing):
            return found
    return Mapped({}, {})


def _fitting(free: dict[str, Sequence[Any]], missing: Sequence[str]) -> Mapped:
    columns: dict[str, str] = {}
    reasons: dict[str, str] = {}
    kinds = {part: KINDS.get(part, "text") for part in missing}
    for part in (p for p, kind in kinds.items() if kind in HOLDS):
        column = next((c for c, v in free.items() if all(_holds(cell, kinds[part]) for cell in _sample(v))), None)
        if column is not None:
            columns[part], reasons[part] = column, f"holds {HOLDS[kinds[part]]}"
            del free[column]
    texts = [part for part, kind in kinds.items() if kind == "text"]
    wordy = sorted((c for c in free if _length(free[c]) >= WORDY), key=lambda c: -_length(free[c]))[: len(texts)]
    for part, column in zip(texts, [c for c in free if c in wordy]):
        columns[part], reasons[part] = column, "has the longest texts" if len(texts) == 1 else "is one of the longest texts"
    for part in (p for p, kind in kinds.items() if kind == "label"):
        classes = {c: _classes(v) for c, v in free.items() if c not in columns.values()}
        fits = sorted((c for c, n in classes.items() if n), key=lambda c: classes[c])
        if fits:
            columns[part], reasons[part] = fits[0], "repeats a few values"
    return Mapped(columns, reasons)


def explained(mapped: Mapped, raw: Columns) -> dict[str, str]:
    """Part -> why this column, in one sentence with what its cells look like."""
    return {
        part: f'"{column}" {mapped.reasons[part]}: {_looks(raw[column], KINDS.get(part, "text"))}.'
        for part, column in mapped.columns.items()
    }


def _looks(cells: Sequence[Any], kind: str) -> str:
    if kind == "label":
        number = len({text(c).strip() for c in cells})
        return f"{number:,} different value{'' if number == 1 else 's'}"
    if kind == "image":
        return f"{len(cells):,} images"
    if kind == "choices":
        return f"{median(len(c) if isinstance(c, list | tuple) else 1 for c in _sample(cells)):.0f} answers in the middle row"
    if kind == "messages":
        return f"conversations of {median(len(turns(c)) for c in _sample(cells)):.0f} turns in the middle"
    return f"{median(len(text(c)) for c in _sample(cells)):,.0f} characters in the middle row"
