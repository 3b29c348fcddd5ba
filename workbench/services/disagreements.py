"""Where methods err: confusion over seeds, and the test rows on which two methods disagree, with their text."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.core.errors import WorkbenchError, unknown
from workbench.core.paths import run_folder
from workbench.jobs import engine
from workbench.services import stored

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

COLUMNS = ("id", "label", "text", "a_right", "b_right", "a_says", "b_says", "gap", "a_loss", "b_loss")
MOST_CLASSES = 30
LONGEST = 500
"""Characters of a row's text that are shown."""


def confusion(rows: Sequence[Mapping[str, Any]], label: str) -> dict[str, Any]:
    """How often each class was taken for each other one, over all seeds of a label.

    Args:
        rows: rows of a comparison.
        label: whose runs.

    Returns:
        {labels, counts}: counts[i][j] = times that class i was taken for class j; both empty without predictions, for more than
        30 classes, or where answers are generated.
    """
    import pandas as pd

    tables = list(stored.all_predictions(_runs(rows, label).values()).values())
    classed = any("accuracy" in row["metrics"] for row in rows if row["label"] == label)
    if not tables or not classed:
        return {"labels": [], "counts": []}
    every = pd.concat(tables)
    names = sorted({str(name) for column in ("label", "prediction") for name in every[column].unique()})
    if len(names) > MOST_CLASSES:
        return {"labels": [], "counts": []}
    true, said = (pd.Categorical(every[column].astype(str), names).codes for column in ("label", "prediction"))
    counts = pd.crosstab(true, said).reindex(index=range(len(names)), columns=range(len(names)), fill_value=0)
    return {"labels": names, "counts": counts.to_numpy().tolist()}


def _runs(rows: Sequence[Mapping[str, Any]], label: str) -> dict[int, str]:
    """Seed -> run id of a label's finished runs.

    Raises:
        WorkbenchError: no such label.
    """
    if label not in {row["label"] for row in rows}:
        raise unknown("label", label, {row["label"] for row in rows})
    return {row["seed"]: row["run_id"] for row in rows if row["label"] == label and row["state"] == "finished"}


def disagreements(rows: Sequence[Mapping[str, Any]], a: str, b: str, limit: int = 30) -> "pd.DataFrame":
    """The test rows on which two labels differ most over their common seeds.

    Args:
        rows: rows of a comparison.
        a, b: labels.
        limit: most rows.

    Returns:
        Columns `COLUMNS`, the largest difference first. `a_right` is the share of seeds that are right, `a_says` the commonest
        prediction, `a_loss` the mean loss, `gap` = a_right - b_right. Where no answers are generated or classes predicted, the
        shares are NaN and `gap` is b_loss - a_loss; positive always favours a. `text` is empty: see `ask_texts`.

    Raises:
        WorkbenchError: no such label, or the two were judged on different test rows.
    """
    import numpy as np
    import pandas as pd

    left, right = _runs(rows, a), _runs(rows, b)
    tables = stored.all_predictions([run for seed in sorted(left.keys() & right.keys()) for run in (left[seed], right[seed])])
    common = [s for s in sorted(left.keys() & right.keys()) if left[s] in tables and right[s] in tables]
    if not common:
        return pd.DataFrame(columns=list(COLUMNS))
    first = tables[left[common[0]]]
    if any(not np.array_equal(table["id"], first["id"]) for table in tables.values()):
        raise WorkbenchError(f"{a} and {b} must be judged on the same test rows to disagree on them; theirs differ.")
    found = pd.DataFrame({"id": first["id"], "label": first["label"], "text": ""})
    for name, runs in (("a", left), ("b", right)):
        said = np.stack([tables[runs[seed]]["prediction"].to_numpy() for seed in common])
        hits = (said == first["label"].to_numpy()).mean(0)
        found[f"{name}_right"] = np.where((said == "").all(0), np.nan, hits)
        found[f"{name}_says"] = _commonest(said)
        found[f"{name}_loss"] = np.mean([tables[runs[seed]]["loss"].to_numpy(dtype=float) for seed in common], axis=0)
    by_loss = found["b_loss"] - found["a_loss"]
    found["gap"] = (found["a_right"] - found["b_right"]).fillna(by_loss)
    order = np.lexsort((-by_loss.abs(), -found["gap"].abs()))
    found = found.iloc[order]
    return found[found["gap"] != 0].head(limit).reset_index(drop=True)[list(COLUMNS)]


def _commonest(said: "np.ndarray") -> list[str]:
    """The most frequent prediction of each row, the first seed's among equals; (seeds, rows) -> rows."""
    columns = [list(column) for column in said.T]
    return [max(column, key=column.count) for column in columns]


def texts_request(run_id: str, ids: Sequence[int]) -> dict[str, str]:
    """The text of test rows of a run, read from its data; for the engine.

    Returns:
        Row id (as text) -> what the model reads, its parts joined by line breaks; images are left out.

    Raises:
        WorkbenchError: the run's data is gone or has changed.
    """
    from workbench import tasks
    from workbench.data import check_unchanged, load_table
    from workbench.jobs.record import read_spec

    spec = read_spec(run_folder(run_id))
    task = tasks.find(spec.task)
    check_unchanged(spec.data)
    wanted, found = set(ids), {}
    for row in load_table(spec.data, task.parts).test:
        if row["id"] in wanted:
            said = [_plain(value) for part, value in row.items() if part not in ("id", task.answer, "image")]
            found[str(row["id"])] = "\n".join(text for text in said if text)[:LONGEST]
    return found


def _plain(value: Any) -> str:
    if isinstance(value, list):  # a chat, or choices
        return "\n".join(f"{one.get('role')}: {one.get('content')}" if isinstance(one, Mapping) else str(one) for one in value)
    return "" if value is None else str(value)


def ask_texts(run_id: str, ids: Sequence[int]) -> dict[int, str]:
    """`texts_request` without importing torch here; empty where the run's data is gone or has changed."""
    try:
        found = engine.ask("test_rows", {"run_id": run_id, "ids": [int(i) for i in ids]})
    except WorkbenchError:
        return {}
    return {int(key): text for key, text in found.items()}
