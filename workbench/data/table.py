"""Columns of rows that remember where they came from, and the three splits of a data source."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

ROWS_PER_ENTRY = 1_000_000_000
"""With several data entries, the row ids of entry number n (from 0) count from n times this; so no entry moves another's."""


def entry_of(row: int) -> int:
    """The number of the data entry that a row id belongs to; 0 where there is only one."""
    return row // ROWS_PER_ENTRY


@dataclass(frozen=True)
class Table:
    """Equal-length columns of rows.

    Attributes:
        ids: the position of each row in its source, from 0 in the source's order, plus `ROWS_PER_ENTRY` times the number of
            its data entry; unique in a split.
        columns: part -> values.
        entries: the number of each row's data entry; empty where there is only one.
    """

    ids: tuple[int, ...]
    columns: dict[str, list[Any]]
    entries: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row `index` as {"id": ..., part: value, ...}."""
        return {"id": self.ids[index], **{name: values[index] for name, values in self.columns.items()}}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def column(self, name: str) -> list[Any]:
        """All values of one part."""
        return self.columns[name]

    def select(self, indices: Sequence[int]) -> "Table":
        """The rows at `indices`, in that order."""
        columns = {name: [values[i] for i in indices] for name, values in self.columns.items()}
        return Table(tuple(self.ids[i] for i in indices), columns, tuple(self.entries[i] for i in indices if self.entries))


@dataclass(frozen=True)
class Splits:
    """What a task trains, tunes and is judged on.

    Attributes:
        train, validation, test: rows whose columns are named by the task's parts (`text`, `label`, ...); no content is in two.
        labels: every class name in a fixed order (numbers by value, else alphabetical); empty without a label part.
        mapping: part -> column of the source it was read from; with several data entries, of the first.
        notes: sentences about what a person should know, e.g. rows dropped because the test split has them too.
        entries: ids of the data entries in order where there are several, else empty.
    """

    train: Table
    validation: Table
    test: Table
    labels: tuple[str, ...] = ()
    mapping: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()

    def label_ids(self, table: Table) -> list[int]:
        """The labels of `table` as indices into `labels`."""
        index = {label: i for i, label in enumerate(self.labels)}
        return [index[label] for label in table.columns["label"]]
