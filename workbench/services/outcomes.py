"""What a run predicted on the test split: a confusion table, and the rows it was surest about and wrong."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.core.paths import run_folder
from workbench.jobs import client

MOST_LABELS = 30
WORST = 30


def outcome(reference: int | str) -> dict[str, Any] | None:
    """The predictions of a finished run, or None where there are none.

    Returns:
        {rows, right, labels, counts, worst}: `counts[i][j]` is how often label i was taken for label j, empty for more than
        30 labels or where nothing is classified; `worst` holds the wrong rows with the largest loss.

    Raises:
        WorkbenchError: no such run.
    """
    held = predictions(run_folder(client.find(reference)["run_id"]))
    test = [row for row in held if row.get("split") == "test"]
    if not test:
        return None
    pairs = Counter((str(row["label"]), str(row["prediction"])) for row in test)
    labels = sorted({name for pair in pairs for name in pair})
    classed = len(labels) <= MOST_LABELS and all(row.get("prediction") is not None for row in test)
    wrong = [row for row in test if str(row["label"]) != str(row["prediction"])]
    return {
        "rows": len(test),
        "right": len(test) - len(wrong),
        "labels": labels if classed else [],
        "counts": [[pairs[a, b] for b in labels] for a in labels] if classed else [],
        "worst": _worst(wrong),
    }


def _worst(wrong: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    ordered = sorted(wrong, key=lambda row: -(row.get("loss") or 0.0))
    return [{name: row.get(name) for name in ("id", "label", "prediction", "score", "loss")} for row in ordered[:WORST]]


def predictions(folder: Path) -> list[dict[str, Any]]:
    """The rows of `predictions.parquet` (or `.csv`) of a run folder; empty where there is none yet."""
    import pandas as pd

    from workbench import compare

    for name, read in (("predictions.parquet", pd.read_parquet), ("predictions.csv", pd.read_csv)):
        if (folder / name).is_file():
            return compare.records(read(folder / name))
    return []
