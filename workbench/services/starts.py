"""`init_from` of a method entry: which adapter is meant, and whether the run can start from it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.core.errors import WorkbenchError
from workbench.core.paths import named
from workbench.services import adapters

if TYPE_CHECKING:
    from workbench.evaluate.starting import Start
    from workbench.plan import Entry, Plan
    from workbench.services.grounds import Ground


def find(reference: str | None) -> "Start | None":
    """The adapter of a run, an imported or combined adapter by name, or an adapter folder; None for None.

    Raises:
        WorkbenchError: nothing of that name, the run has no adapter (yet), or the folder holds none.
    """
    from workbench.evaluate import starting

    if reference is None:
        return None
    named(reference, "init_from")
    path = Path(reference).expanduser()
    try:
        return starting.look(path if path.is_absolute() or len(path.parts) > 1 else adapters.adapter_folder(reference))
    except WorkbenchError as error:
        raise WorkbenchError(f"init_from must name a run with an adapter, or an adapter folder: {error}") from None


def fit(
    start: "Start | None", entry: "Entry", plan: "Plan", ground: "Ground", labels: Sequence[str]
) -> "tuple[Plan, tuple[str, ...]]":
    """The plan with what keeps the entry from starting there, and what a person should know about the start.

    Args:
        start: the adapter, if one is named.
        entry, plan: the resolved entry and its plan.
        ground: what all entries stand on, the base model among it.
        labels: the run's label names.
    """
    from workbench.evaluate import starting

    if start is None or plan.problems:
        return plan, ()
    recipe, host, head = entry.recipe[0], ground.host, ground.head
    found = starting.problem(start, host, head, entry.key, entry.cfg, ground.base)
    if not recipe.takes_init:
        name = recipe.__module__.rpartition(".")[2]
        found = f"the recipe {name} goes back to the base between its phases; leave init_from out."
    if found:
        return replace(plan, problems=(found,), peak_memory_bytes=None, train_seconds=None), ()
    return plan, tuple(f"{entry.label}: {note}" for note in starting.notes(start, entry.cfg, labels, host, head))
