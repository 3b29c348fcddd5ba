"""Predicting the rows of a file with a trained adapter."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from workbench.core.errors import WorkbenchError
from workbench.core.paths import inside, named
from workbench.core.text import cell
from workbench.data import Table, choices, columns, values
from workbench.data.tabular import read_table
from workbench.evaluate import evaluation, saved
from workbench.export.exporting import free_disk
from workbench.kernel import registry
from workbench.tasks import Task

BATCH = 32


def predict(source: str | Path, file: str | Path, to: str | Path) -> dict[str, Any]:
    """Predict every row of a table and write one row per row.

    Args:
        source: run folder or adapter folder.
        file: csv, tsv, json, jsonl or parquet with the columns the run was trained on; the answer's column may be missing. Where
            the method asks for the data entry of a row, the column `task` holds its id.
        to: new file: .csv, .jsonl or .parquet with id, prediction, score and, where answers are given, label and loss.

    Returns:
        {rows, to, labelled, metrics}; metrics is empty without answers.

    Raises:
        WorkbenchError: a missing column, an unreadable file, or a target that exists or has another suffix.
    """
    file, to = named(file, "the file to predict"), named(to, "the predictions' file")
    if to.suffix.lower() not in WRITERS:
        raise WorkbenchError(f"the predictions' file must end in {', '.join(WRITERS)}; got {to.name[:80]!r}.")
    if to.exists() or not to.parent.is_dir():
        raise WorkbenchError(f"the predictions must go to a new file in a folder that exists; got {to}.")
    where = saved.place(source)
    stored = saved.read(where)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    revived = saved.revive(stored, where, device=device)
    raw = read_table(file)
    table, labelled = _table(raw, file, revived.task, stored.meta.get("columns") or {})
    if "task" in registry.needs(revived.adapter.method, revived.adapter.cfg):
        table = replace(table, entries=_entries(raw.get("task"), stored.meta.get("entries") or [], revived.adapter.key, file))
    predictions, metrics = evaluation.evaluate(revived.task, revived.host, revived.task.examples(table), BATCH, device)
    names = ("id", "prediction", "score", *(("label", "loss") if labelled else ()))
    with free_disk(to):
        _write([{n: getattr(p, n) for n in names} for p in predictions], to)
    return {"rows": len(predictions), "to": str(to), "labelled": labelled, "metrics": metrics if labelled else {}}


def _entries(cells: list[Any] | None, known: Sequence[str], method: str, file: Path) -> tuple[int, ...]:
    """The number of each row's data entry, from the column that names it."""
    strange = next((str(cell) for cell in cells or () if str(cell) not in known), None)
    if cells is None or strange is not None:
        got = "it has no such column" if cells is None else f"a row says {strange!r:.60}"
        raise WorkbenchError(
            f"{method} needs the data entry of every row: the column 'task' of {file.name} must hold {' or '.join(known)}; {got}."
        )
    return tuple(known.index(str(cell)) for cell in cells)


def _table(raw: dict[str, list[Any]], file: Path, task: Task, trained: dict[str, str]) -> tuple[Table, bool]:
    """The task's columns of a file, the answers' only where the column of the training is there; and whether it is."""
    asked = [{p: want for p, want in parts.items() if p != task.answer} for parts in task.parts]
    given = {part: column for part, column in trained.items() if column in raw and part != task.answer}
    mapped = columns.map_columns(list(raw), asked, given, file.name).columns
    wanted = next(parts for parts in asked if set(mapped) <= set(parts))
    found = {part: _cells(part, raw[column], column, wanted[part], file) for part, column in mapped.items()}
    answer = trained.get(task.answer)
    if answer in raw:
        kind = columns.KINDS.get(task.answer, "text")
        found[task.answer] = values.CHECKS[kind](raw[answer], answer, task.answer, True)
    if "choices" in found or "choice_a" in found:
        choices.check(found)
    labelled = answer in raw or not any(task.answer in parts for parts in task.parts if set(mapped) <= set(parts))
    return Table(tuple(range(len(next(iter(raw.values()))))), found), labelled


def _cells(part: str, cells: list[Any], column: str, required: Any, file: Path) -> list[Any]:
    kind = columns.KINDS.get(part, "text")
    if kind != "image":
        return values.CHECKS[kind](cells, column, part, columns.is_required(required))
    values.refuse_missing(cells, column, part)
    return [str(inside(file.resolve().parent, c)) if isinstance(c, str) else c for c in cells]


def _csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: cell(v) for k, v in row.items()} for row in rows)


def _jsonl(rows: Sequence[dict[str, Any]], path: Path) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows), encoding="utf-8")


def _parquet(rows: Sequence[dict[str, Any]], path: Path) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise WorkbenchError("parquet files need pyarrow, which is not installed; name a .csv or .jsonl file.") from None
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


WRITERS: dict[str, Callable[[Sequence[dict[str, Any]], Path], None]] = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}


def _write(rows: Sequence[dict[str, Any]], to: Path) -> None:
    """The file appears whole or not at all."""
    work = to.with_name(f".{to.name}.tmp")
    try:
        WRITERS[to.suffix.lower()](rows, work)
        work.replace(to)
    finally:
        work.unlink(missing_ok=True)
