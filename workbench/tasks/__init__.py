"""What can be learnt: one file per task, found by walking the folder."""

from functools import cache

from workbench.core.errors import unknown
from workbench.tasks.contract import Batch, Prediction, Task

__all__ = ["Batch", "Prediction", "Task", "find", "names"]


@cache
def _all() -> dict[str, type[Task]]:
    from workbench.kernel.registry import final_class, modules

    return {key: final_class(module, Task) for key, module in sorted(modules("workbench.tasks").items())}


def names() -> list[str]:
    """Keys of all tasks."""
    return list(_all())


def find(name: str) -> type[Task]:
    """The task class called `name`.

    Raises:
        WorkbenchError: unknown, with the closest names.
    """
    if name not in _all():
        raise unknown("task", name, _all())
    return _all()[name]
