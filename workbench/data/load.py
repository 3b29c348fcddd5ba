"""From a resolved source to the three splits a task trains and is judged on, and the preview of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.core.errors import WorkbenchError
from workbench.core.paths import inside
from workbench.core.spec import DataSpec
from workbench.data import columns as mapping
from workbench.data import images, sources, split, values
from workbench.data.columns import Mapped, Wanted
from workbench.data.table import Splits, Table


@dataclass
class _Pool:
    """Checked rows of one source part; `keys` are equal where contents are."""

    parts: dict[str, list[Any]]
    keys: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    def table(self, rows: Sequence[int]) -> Table:
        return Table(tuple(rows), {name: [cells[i] for i in rows] for name, cells in self.parts.items()})


def _image_paths(cells: list[Any], column: str, origin: Path) -> list[Any]:
    """Image cells; a relative path in a table is taken from the table's folder and must stay inside it."""
    values.refuse_missing(cells, column, "image")
    return [str(inside(origin.parent, cell)) if isinstance(cell, str) and origin.is_file() else cell for cell in cells]


def _pool(raw: dict[str, list[Any]], mapped: Mapped, wanted: Wanted, kinds: Mapping[str, str], origin: Path) -> _Pool:
    parts: dict[str, list[Any]] = {}
    for part, column in mapped.columns.items():
        kind = kinds.get(part) or mapping.KINDS.get(part, "text")
        if kind == "image":
            parts[part] = _image_paths(raw[column], column, origin)
        else:
            parts[part] = values.CHECKS[kind](raw[column], column, part, mapping.is_required(wanted[part]))
    return _Pool(parts)


def _set_keys(pools: Sequence[_Pool]) -> None:
    """Content keys over every part but the label, comparable between pools."""
    for pool in pools:
        inputs = [cells for part, cells in pool.parts.items() if part not in ("label", "image")]
        rows = zip(*inputs, strict=True) if inputs else [()] * len(pool)
        pool.keys = [" \0 ".join(" ".join(str(cell).casefold().split()) for cell in row) for row in rows]
    if "image" in pools[0].parts:
        found = iter(images.keys([image for pool in pools for image in pool.parts["image"]]))
        for pool in pools:
            pool.keys = [key + next(found) for key in pool.keys]


def _pools(ref: DataSpec, columns: Wanted | Sequence[Wanted], kinds: Mapping[str, str]) -> tuple[dict[str, _Pool], Mapped]:
    """The pools `train` and, where they are data of their own, `validation` and `test`."""
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
    _set_keys(list(pools.values()))
    return pools, mapped


def _without(pool: _Pool, rows: list[int], forbidden: set[str], what: str, notes: list[str]) -> list[int]:
    kept = [i for i in rows if pool.keys[i] not in forbidden]
    if len(kept) < len(rows):
        notes.append(f"{len(rows) - len(kept):,} {what} left out because another split holds the same content.")
    if not kept:
        raise WorkbenchError(f"{what} must differ from the test and validation data; every one of them also stands there.")
    return kept


def _rows(ref: DataSpec, pools: dict[str, _Pool], notes: list[str]) -> dict[str, list[int]]:
    """Row numbers of each split in its own pool; the test rows are settled first and never depend on limit or validation."""
    main = pools["train"]
    usable = list(range(len(main)))
    if "test" in pools:
        usable = _without(main, usable, set(pools["test"].keys), "training rows", notes)
    labels = main.parts.get("label")
    fractions = tuple(None if part in pools else getattr(ref, part) for part in sources.PARTS)
    cut = split.divide([main.keys[i] for i in usable], [labels[i] for i in usable] if labels else None, fractions, ref.seed)
    train, validation, test = ([usable[i] for i in part] for part in cut)
    if "test" in pools:
        test = list(range(len(pools["test"])))
    if "validation" in pools:
        other = pools["validation"]
        tested = {pools.get("test", main).keys[i] for i in test}
        validation = _without(other, list(range(len(other))), tested, "validation rows", notes)
        train = _without(main, train, {other.keys[i] for i in validation}, "training rows", notes)
    train = split.limited(train, main.keys, labels, ref.limit, ref.seed)
    return {"train": train, "validation": validation, "test": test}


def _labels(pools: dict[str, _Pool], mapped: Mapped) -> tuple[str, ...]:
    if "label" not in mapped.columns:
        return ()
    known = set(pools["train"].parts["label"])
    for part in sources.PARTS:
        strange = sorted(set(pools[part].parts["label"]) - known) if part in pools else []
        if strange:
            raise WorkbenchError(
                f"every label of the {part} data must also occur in the training data; {strange[0][:60]!r} does not: "
                "check its spelling."
            )
    return values.natural(known)


def load_table(ref: DataSpec, columns: Wanted | Sequence[Wanted], kinds: Mapping[str, str] | None = None) -> Splits:
    """Read, map, check and divide the data.

    Args:
        ref: a resolved DataRef, or a DataSpec.
        columns: the task's parts, {"text": "required", "text_pair": "optional", ...}, or several alternatives, preferred first.
        kinds: part -> text | label | image | messages where the part's name does not say so.

    Raises:
        WorkbenchError: one sentence about the first thing that cannot be used; nothing is silently skipped.
    """
    pools, mapped = _pools(ref, columns, kinds or {})
    notes: list[str] = []
    labels = _labels(pools, mapped)
    rows = _rows(ref, pools, notes)
    tables = {name: pools.get(name, pools["train"]).table(chosen) for name, chosen in rows.items()}
    return Splits(**tables, labels=labels, mapping=mapped.columns, notes=tuple(notes))
