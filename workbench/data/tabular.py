"""csv, tsv, json, jsonl and parquet as columns; rows that do not fit are an error, never dropped."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.core.errors import WorkbenchError
from workbench.data import files

Columns = dict[str, list[Any]]
MAX_CELL = 10_000_000


def _separator(header: str, suffix: str) -> str:
    """Comma, or what the header line has in its place: a tab or, where the comma is the decimal sign, a semicolon."""
    if suffix == ".tsv" or ("," not in header and "\t" in header):
        return "\t"
    return ";" if "," not in header and ";" in header else ","


def _check_header(names: list[str], path: Path) -> None:
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise WorkbenchError(f"{path.name} must name each column once; {twice[:60]!r} appears {names.count(twice)} times.")


def read_csv(path: Path) -> Columns:
    """A table with a header line; every cell is a string."""
    text = files.text(path)
    separator = _separator(text.lstrip("\n").split("\n", 1)[0], path.suffix.lower())
    before = csv.field_size_limit(MAX_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        rows = ((reader.line_num, row) for row in reader if row)
        header = [name.strip() for name in next(rows)[1]]
        _check_header(header, path)
        values: list[list[str]] = [[] for _ in header]
        for line, row in rows:
            if len(row) != len(header):
                raise WorkbenchError(
                    f"{path.name} must have {len(header)} fields in every row; line {line} has {len(row)}: "
                    "quote texts that hold the separator or a line break."
                )
            for cells, cell in zip(values, row, strict=True):
                cells.append(cell)
    except csv.Error as error:
        raise WorkbenchError(
            f"{path.name} must be a proper {path.suffix[1:] or 'csv'}; it fails at line {reader.line_num} with {error}."
        ) from None
    finally:
        csv.field_size_limit(before)
    if not values[0]:
        raise WorkbenchError(f"{path.name} must hold rows; it has only a header.")
    return dict(zip(header, values, strict=True))


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)[:60]!r} appears twice")
    return record


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value (write null)")


def _parse(text: str, path: Path, line: int) -> Any:
    """One JSON value; `line` is where `text` begins in the file."""
    try:
        return json.loads(text, object_pairs_hook=_no_twins, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where, problem = f"line {line + error.lineno - 1}, column {error.colno}", error.msg.lower().removesuffix(" starting at")
    except (ValueError, RecursionError) as error:
        where, problem = f"line {line}", "it is nested too deep" if isinstance(error, RecursionError) else str(error)
    raise WorkbenchError(f"{path.name} must be valid {path.suffix[1:]}; it fails at {where}: {problem}.")


def _columns(records: list[Any], path: Path) -> Columns:
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise WorkbenchError(
                f'{path.name} must hold one object per row, like {{"text": ..., "label": ...}}; row {number} is '
                f"{type(record).__name__}."
            )
    names = list(dict.fromkeys(name for record in records for name in record))
    if not names:
        raise WorkbenchError(f"{path.name} must hold rows; it has none.")
    return {name: [record.get(name) for record in records] for name in names}


def read_json(path: Path) -> Columns:
    """An array of objects, or {"data": [objects]}."""
    value = _parse(files.text(path), path, 1)
    records = value.get("data") if isinstance(value, dict) else value
    if not isinstance(records, list):
        got = f"an object with the keys {list(value)[:6]}" if isinstance(value, dict) else type(value).__name__
        raise WorkbenchError(f'{path.name} must be an array of objects or {{"data": [...]}}; got {got}.')
    return _columns(records, path)


def read_jsonl(path: Path) -> Columns:
    """One object per line; blank lines are skipped."""
    lines = enumerate(files.text(path).split("\n"), 1)
    return _columns([_parse(line, path, number) for number, line in lines if line.strip()], path)


def read_parquet(path: Path) -> Columns:
    """A parquet file, read by pyarrow."""
    files.regular(path)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise WorkbenchError("parquet files need pyarrow, which is not installed; install it or give csv or jsonl.") from None
    try:
        table = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True).read()
        _check_header(table.column_names, path)
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
    except (pyarrow.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120].rstrip(".")
        raise WorkbenchError(f"{path.name} must be a whole parquet file; it cannot be read ({reason}).") from None
    if not columns or not table.num_rows:
        raise WorkbenchError(f"{path.name} must hold rows; it has none.")
    return columns


READERS: dict[str, Callable[[Path], Columns]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": read_parquet,
}


def read_table(path: Path) -> Columns:
    """Read one file by its extension.

    Returns:
        Column name -> values, all of equal length, at least one row.

    Raises:
        WorkbenchError: one sentence for anything that is not a whole, regular table.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise WorkbenchError(f"a data file must end in {', '.join(READERS)}; got {path.name[:100]!r}.")
    columns = reader(path)
    if len(columns) > 10_000:
        raise WorkbenchError(f"{path.name} must have at most 10,000 columns; it has {len(columns):,}.")
    return columns
