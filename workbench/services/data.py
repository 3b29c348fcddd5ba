"""What the data looks like before anything is trained."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from workbench.core.data_spec import DataSpec, entries
from workbench.core.errors import WorkbenchError, from_pydantic
from workbench.core.spec import ExperimentSpec
from workbench.jobs import engine


def preview_request(data: Mapping[str, Any] | str, task: str, rows: int = 20) -> dict[str, Any]:
    """First rows, guessed columns, split sizes, label balance and the doctor's findings of a data source; for the engine.

    Args:
        data: the spec's `data`, or its source alone.
        task: key of the task whose columns are wanted.
        rows: rows to show.

    Raises:
        WorkbenchError: unknown task, a bad value, or a source that cannot be read.
    """
    from workbench import tasks
    from workbench.data import preview

    try:
        spec = DataSpec.model_validate({"source": data} if isinstance(data, str) else dict(data))
    except ValidationError as error:
        raise from_pydantic(error, "data", DataSpec.model_fields) from None
    return preview(spec, tasks.find(task).parts, rows)


def bundled() -> dict[str, list[str]]:
    """{models, data}: what needs no download, as one writes it in a spec."""
    from workbench.data.bundled import TABLES
    from workbench.models.bundled import names

    return {"models": [f"bundled/{name}" for name in names()], "data": [f"bundled/{name}" for name in TABLES]}


def ask(data: Mapping[str, Any] | str, task: str, rows: int = 20) -> dict[str, Any]:
    """`preview_request` without importing torch here: the engine answers."""
    return engine.ask("preview", {"data": data if isinstance(data, str) else dict(data), "task": task, "rows": rows})


def ask_tokens(
    data: Mapping[str, Any] | str, task: str, model: Mapping[str, Any] | str, max_length: int, rows: int = 5
) -> dict[str, Any]:
    """`tokens.tokens` without importing torch here: the engine answers."""
    request = {"data": data, "task": task, "model": model, "max_length": max_length, "rows": rows}
    return engine.ask("tokens", request)


SHOWN = ("source", "total", "counts", "mapping", "reasons", "proposed", "unused", "labels", "doctor", "problem")
SEEN = ("truncation", "suggestion", "unknown", "limit", "scores", "image")


def examined(spec: ExperimentSpec) -> dict[str, Any]:
    """Everything `data` prints about the data of an experiment, in this process.

    Returns:
        {experiment, entries: [{id, source, total, counts, mapping, reasons, proposed, unused, labels, doctor, problem}],
        truncation, suggestion, unknown, limit, scores, image, problem}. `problem` is the first sentence that keeps the data from
        being used, else None; with one, what the model sees is not looked at.

    Raises:
        WorkbenchError: unknown task, a source that cannot be read, or a base model that cannot be used.
    """
    from workbench.services.tokens import tokens

    found = []
    for entry in entries(spec.data):
        shown = preview_request(entry.model_dump(), spec.task, 0)
        found.append({"id": entry.id, **{name: shown.get(name, entry.source) for name in SHOWN}})
    problem = next((one["problem"] for one in found if one["problem"]), None)
    data = [one.model_dump() for one in entries(spec.data)]
    seen: Mapping[str, Any] = {}
    if problem is None:
        try:
            seen = tokens(data, spec.task, spec.model.model_dump(), spec.training.max_length, 0)
        except WorkbenchError as error:
            problem = str(error)
    return {"experiment": spec.name, "entries": found, **{name: seen.get(name) for name in SEEN}, "problem": problem}
