"""What the data looks like before anything is trained, as plain JSON values."""

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workbench.core.errors import WorkbenchError
from workbench.core.spec import DataSpec
from workbench.data import columns as mapping
from workbench.data import images, sources
from workbench.data.columns import Mapped, Wanted
from workbench.data.load import load_table
from workbench.data.table import Splits

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


def preview(ref: DataSpec, columns: Wanted | Sequence[Wanted], n: int = 20) -> dict[str, Any]:
    """Columns, guessed mapping and first rows of a source, and how it would be divided.

    Args:
        ref: the data, resolved or not.
        columns: the task's parts, as for `load_table`.
        n: rows to show.

    Returns:
        {columns, mapping, reasons, unused, rows, total, counts, balance, labels, notes, problem}. `problem` is None, or the
        sentence why the data cannot be used as it stands; then counts and balance are empty.

    Raises:
        WorkbenchError: the source itself cannot be read.
    """
    raw = sources.read(ref)
    present = list(raw)
    mapped = _mapped(present, columns, ref.columns)
    shown = {mapped.columns.get("image")}
    total = len(raw[present[0]])
    result: dict[str, Any] = {
        "columns": present,
        "mapping": mapped.columns,
        "reasons": mapped.reasons,
        "unused": [name for name in present if name not in mapped.columns.values()],
        "total": total,
        "counts": {},
        "balance": {},
        "labels": [],
        "notes": [],
        "rows": [],
        "problem": None,
    }
    try:
        splits = load_table(ref, columns)
        result["counts"] = {"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)}
        result["balance"], result["labels"], result["notes"] = _balance(splits), list(splits.labels), list(splits.notes)
        result["rows"] = [{c: _plain(raw[c][i], c in shown) for c in present[:50]} for i in range(min(n, total))]
    except WorkbenchError as error:
        result["problem"] = str(error)
        result["rows"] = [{c: _plain(raw[c][i], False) for c in present[:50]} for i in range(min(n, total))]
    return result
