"""The checked rows of one data entry: a pool per part of its source, and keys that are equal where contents are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.core.data_spec import DataSpec
from workbench.core.paths import inside
from workbench.data import choices, images, sources, values
from workbench.data import columns as mapping
from workbench.data.columns import Mapped, Wanted


@dataclass
class Pool:
    """Checked rows of one source part: `parts` holds a column per task part, in the task's order, `keys` one text per row."""

    parts: dict[str, list[Any]]
    keys: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))


def _image_paths(cells: list[Any], column: str, origin: Path) -> list[Any]:
    """Image cells; a relative path in a table is taken from the table's folder and must stay inside it."""
    values.refuse_missing(cells, column, "image")
    return [str(inside(origin.parent, cell)) if isinstance(cell, str) and origin.is_file() else cell for cell in cells]


def _pool(raw: dict[str, list[Any]], mapped: Mapped, wanted: Wanted, kinds: Mapping[str, str], origin: Path) -> Pool:
    parts: dict[str, list[Any]] = {}
    for part in (p for p in wanted if p in mapped.columns):
        column, kind = mapped.columns[part], kinds.get(part) or mapping.KINDS.get(part, "text")
        if kind == "image":
            parts[part] = _image_paths(raw[column], column, origin)
        else:
            parts[part] = values.CHECKS[kind](raw[column], column, part, mapping.is_required(wanted[part]))
    if "choices" in parts or "choice_a" in parts:
        choices.check(parts)
    return Pool(parts)


def keys(pools: Sequence[Pool]) -> list[list[str]]:
    """Content keys over every part but the label (and the answer among choices), per pool; comparable within one call."""
    found: list[list[str]] = []
    for pool in pools:
        inputs = [cells for part, cells in pool.parts.items() if part not in ("label", "answer", "image")]
        rows = zip(*inputs, strict=True) if inputs else [()] * len(pool)
        found.append([" \0 ".join(" ".join(str(cell).casefold().split()) for cell in row) for row in rows])
    if "image" in pools[0].parts:
        pictures = iter(images.keys([image for pool in pools for image in pool.parts["image"]]))
        found = [[key + next(pictures) for key in own] for own in found]
    return found


def read(ref: DataSpec, columns: Wanted | Sequence[Wanted], kinds: Mapping[str, str]) -> tuple[dict[str, Pool], Mapped]:
    """The pools `train` and, where they are data of their own, `validation` and `test`.

    Args:
        ref: one data entry.
        columns, kinds: as for `load_table`.

    Raises:
        WorkbenchError: a column is missing, or a cell cannot be used.
    """
    raw = sources.read(ref)
    name = Path(ref.source).name if sources.kind_of(ref.source) in ("file", "folder") else ref.source
    mapped = mapping.map_columns(list(raw), columns, ref.columns, name)
    choices = [columns] if isinstance(columns, Mapping) else columns
    wanted = next(choice for choice in choices if set(mapped.columns) <= set(choice))
    pools = {"train": _pool(raw, mapped, wanted, kinds, Path(ref.source).expanduser())}
    if "label" in mapped.columns:
        values.check_classes(pools["train"].parts["label"], mapped.columns["label"])
    for part in sources.PARTS:
        where = getattr(ref, part)
        if isinstance(where, str):
            other = sources.read(ref, where)
            mapping.map_columns(list(other), dict.fromkeys(mapped.columns, True), mapped.columns, f"the {part} data")
            pools[part] = _pool(other, mapped, wanted, kinds, Path(where).expanduser())
    for pool, own in zip(pools.values(), keys(list(pools.values())), strict=True):
        pool.keys = own
    return pools, mapped
