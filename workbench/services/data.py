"""What the data looks like before anything is trained."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from workbench.core.errors import from_pydantic
from workbench.core.spec import DataSpec
from workbench.jobs import engine


def preview_request(data: Mapping[str, Any] | str, task: str, rows: int = 20) -> dict[str, Any]:
    """First rows, guessed columns, split sizes and label balance of a data source; for the engine.

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
