"""Columns of rows that remember where they came from, and the three splits of a data source."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Table:
    """Equal-length columns; `ids[i]` is the position of row i in its source, counted from 0 in the source's order."""

    ids: tuple[int, ...]
    columns: dict[str, list[Any]]

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
        return Table(tuple(self.ids[i] for i in indices), columns)


@dataclass(frozen=True)
class Splits:
    """What a task trains, tunes and is judged on.

    Attributes:
        train, validation, test: rows whose columns are named by the task's parts (`text`, `label`, ...); no content is in two.
        labels: every class name in a fixed order (numbers by value, else alphabetical); empty without a label part.
        mapping: part -> column of the source it was read from.
        notes: sentences about what a person should know, e.g. rows dropped because the test split has them too.
    """

    train: Table
    validation: Table
    test: Table
    labels: tuple[str, ...] = ()
    mapping: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def label_ids(self, table: Table) -> list[int]:
        """The labels of `table` as indices into `labels`."""
        index = {label: i for i, label in enumerate(self.labels)}
        return [index[label] for label in table.columns["label"]]
