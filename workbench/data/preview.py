"""What the data looks like before anything is trained, as plain JSON values."""

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workbench.core.data_spec import DataSpec
from workbench.core.errors import WorkbenchError
from workbench.data import columns as mapping
from workbench.data import doctor, images, proposals, sources
from workbench.data.columns import Mapped, Wanted
from workbench.data.load import load_table
from workbench.data.table import Splits, Table

LONGEST = 300


def _picture(image: Any) -> str:
    """A PNG of at most 64 x 64 as a data address."""
    from PIL import Image

    small = Image.fromarray(images.pixels(image))
    small.thumbnail((64, 64))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _plain(cell: Any, is_image: bool) -> Any:
    if is_image:
        return _picture(cell)
    if cell is None or isinstance(cell, bool | int) or (isinstance(cell, float) and np.isfinite(cell)):
        return cell
    text = str(cell).encode("utf-8", "replace").decode()
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def _mapped(present: list[str], columns: Wanted | Sequence[Wanted], given: Mapping[str, str] | None) -> Mapped:
    try:
        return mapping.map_columns(present, columns, given, "the data")
    except WorkbenchError:
        return mapping.guess(present, columns if isinstance(columns, Mapping) else columns[0])


def _balance(splits: Splits) -> dict[str, dict[str, int]]:
    tables = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    counts = {name: Counter(table.columns.get("label", ())) for name, table in tables.items()}
    return {label: {name: counts[name][label] for name in tables} for label in splits.labels}


def _divided(result: dict[str, Any], splits: Splits) -> None:
    """Fill in what only data that can be loaded has."""
    tables = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    result["counts"] = {name: len(table) for name, table in tables.items()}
    result["balance"], result["labels"], result["notes"] = _balance(splits), list(splits.labels), list(splits.notes)
    result["doctor"] = doctor.examine(tables, splits.notes)


def _raw(raw: Mapping[str, list[Any]], columns: Mapping[str, str]) -> dict[str, Table]:
    """The cells of some columns as they stand in the source, for data that cannot be loaded; images are left out."""
    parts = {part: raw[column] for part, column in columns.items() if part != "image"}
    return {"source": Table(tuple(range(len(next(iter(parts.values()))))), parts)} if parts else {}


def preview(ref: DataSpec, columns: Wanted | Sequence[Wanted], n: int = 20) -> dict[str, Any]:
    """Columns, guessed mapping and first rows of a source, and how it would be divided.

    Args:
        ref: the data, resolved or not.
        columns: the task's parts, as for `load_table`.
        n: rows to show.

    Returns:
        {columns, mapping, proposed, reasons, unused, rows, total, counts, balance, labels, notes, doctor, problem}. `proposed`
        are columns for parts that no name settles (not in force until written under `columns`), `reasons` say why, `doctor` is
        what `doctor.examine` finds. `problem` is None, or the sentence why the data cannot be used as it stands; then counts and
        balance are empty and the doctor looked at the raw rows.

    Raises:
        WorkbenchError: the source itself cannot be read.
    """
    raw = sources.read(ref)
    present = list(raw)
    mapped = _mapped(present, columns, ref.columns)
    proposed = proposals.propose(raw, columns, mapped)
    total = len(raw[present[0]])
    result: dict[str, Any] = {
        "columns": present,
        "mapping": mapped.columns,
        "proposed": proposed.columns,
        "reasons": {**proposals.explained(proposed, raw), **proposals.explained(mapped, raw)},
        "unused": [name for name in present if name not in mapped.columns.values()],
        "total": total,
        "counts": {},
        "balance": {},
        "labels": [],
        "notes": [],
        "doctor": [],
        "rows": [],
        "problem": None,
    }
    try:
        _divided(result, load_table(ref, columns))
    except WorkbenchError as error:
        result["problem"] = str(error)
        tables = _raw(raw, {**proposed.columns, **mapped.columns})
        result["doctor"] = doctor.examine(tables) if tables else []
    pictures = {mapped.columns.get("image")} if result["problem"] is None else set()
    result["rows"] = [{c: _plain(raw[c][i], c in pictures) for c in present[:50]} for i in range(min(n, total))]
    return result
