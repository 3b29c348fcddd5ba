"""What the data doctor looks at and how it speaks: rows of all splits side by side, and findings as plain values."""

import math
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from workbench.data.table import Table

Severity = Literal["problem", "warning", "note"]
MOST = 200_000
"""Rows looked at; of more, an even sample."""
SHOWN, LONGEST = 3, 120  # examples of a finding, and characters of one
OUTER = string.punctuation + string.whitespace


@dataclass(frozen=True)
class Rows:
    """The rows looked at, split after split.

    Attributes:
        splits, ids: where each row stands; ids count from 0 in the row's source.
        parts: part -> its cells.
        total: rows there are, of which these are an even sample.
    """

    splits: list[str]
    ids: list[int]
    parts: dict[str, list[Any]]
    total: int

    def __len__(self) -> int:
        return len(self.ids)

    def texts(self) -> dict[str, list[str]]:
        """The parts a model reads or writes as text; of a chat, its turns as `question` and the last one as `answer`."""
        plain = {p: [text(c) for c in cells] for p, cells in self.parts.items() if p not in ("label", "image", "messages")}
        if "messages" in self.parts:
            chats = [turns(cell) for cell in self.parts["messages"]]
            plain["question"] = ["\n".join(text(t.get("content")) for t in chat[:-1]) for chat in chats]
            plain["answer"] = [text(chat[-1].get("content")) if chat else "" for chat in chats]
        return plain

    def example(self, index: int, shown: str) -> dict[str, Any]:
        """One row of a finding."""
        flat = " ".join(shown.split())
        short = flat if len(flat) <= LONGEST else flat[: LONGEST - 3] + "..."
        return {"id": self.ids[index], "split": self.splits[index], "text": short}


def gather(tables: Mapping[str, Table], most: int = MOST) -> Rows:
    """All rows of all splits, or of more than `most` an even sample."""
    total = sum(len(table) for table in tables.values())
    step = max(1, math.ceil(total / most))
    picked = {name: range(0, len(table), step) for name, table in tables.items()}
    names = [part for part in next(iter(tables.values())).columns if all(part in t.columns for t in tables.values())]
    return Rows(
        splits=[name for name, rows in picked.items() for _ in rows],
        ids=[tables[name].ids[i] for name, rows in picked.items() for i in rows],
        parts={part: [tables[name].columns[part][i] for name, rows in picked.items() for i in rows] for part in names},
        total=total,
    )


def finding(
    severity: Severity, what: str, rows: Rows, found: Sequence[int], sentence: str, shown: Sequence[str] | None = None
) -> dict[str, Any]:
    """One finding.

    Args:
        severity: `problem`: figures or the training itself cannot be trusted; `warning`: look at it; `note`: good to know.
        what: a stable key.
        rows: what was looked at.
        found: indices of the rows concerned; their number over all rows is the share.
        sentence: what it is and what follows from it.
        shown: texts of all rows to take the examples from; None shows none.
    """
    return {
        "severity": severity,
        "what": what,
        "count": len(found),
        "share": round(len(found) / max(1, len(rows)), 6),
        "sentence": sentence,
        "examples": [] if shown is None else [rows.example(i, shown[i]) for i in found[:SHOWN]],
    }


def text(cell: Any) -> str:
    """A cell as text, a list in one line; empty where there is none."""
    if isinstance(cell, list | tuple):
        return " | ".join(map(text, cell))
    return "" if cell is None or (isinstance(cell, float) and math.isnan(cell)) else str(cell)


def turns(cell: Any) -> list[Mapping[str, Any]]:
    """The turns of a chat; empty where a cell holds no chat."""
    return [turn for turn in cell if isinstance(turn, Mapping)] if isinstance(cell, list | tuple) else []


def folded(cell: str) -> str:
    """Lower case, single blanks, no punctuation at the ends: equal for texts that differ in nothing else."""
    return " ".join(cell.casefold().split()).strip(OUTER)


def counted(found: Sequence[int], rows: Rows) -> str:
    """`12 of 1,000 rows`."""
    return f"{len(found):,} of {len(rows):,} row{'' if len(rows) == 1 else 's'}"


def verb(found: Collection[int], singular: str, plural: str) -> str:
    """The form of a verb that fits the number of rows."""
    return singular if len(found) == 1 else plural
