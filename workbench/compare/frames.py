"""Between JSON rows and DataFrames."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

NESTED = ("metrics", "validation", "predicted", "fields")


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per run, with `metrics`, `validation`, `predicted` and `fields` spread into columns such as `metrics.accuracy`.

    Args:
        rows: the rows of `run --json`; null figures become NaN.
    """
    flat = []
    for row in rows:
        plain = {key: value for key, value in row.items() if key not in NESTED}
        for part in NESTED:
            plain |= {f"{part}.{key}": value for key, value in (row.get(part) or {}).items()}
        flat.append(plain)
    return pd.DataFrame(flat)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON: plain Python values, null for everything missing or not finite."""
    return [{str(key): _plain(value) for key, value in row.items()} for row in table.to_dict(orient="records")]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(inner) for inner in value]
    if value is None or value is pd.NaT or value is pd.NA:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int) else str(value)
