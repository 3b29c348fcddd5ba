"""How much of a base model every method trains at its usual settings: counted on shapes, remembered per model and code."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core import paths
from workbench.core.errors import WorkbenchError
from workbench.jobs import detach, engine, wire
from workbench.services import grounds

if TYPE_CHECKING:
    from torch import nn

    from workbench.plan import Plan
    from workbench.tasks import Task


def shares(model: Mapping[str, Any] | str, task: str) -> dict[str, Any]:
    """Trained scalars over those of the base for every method and preset; for the engine.

    Args:
        model: the spec's `model`.
        task: key of the task, which decides the model class and its head.

    Returns:
        {base_params, shares: {key: share or None}, problems: {key: sentence}}; a share is None where the method cannot be used
        on this base and task, and the sentence says why.

    Raises:
        WorkbenchError: unknown task, or a base model that cannot be used.
    """
    from workbench import tasks
    from workbench.models.bundled import resolve_model
    from workbench.services.tokens import asked

    given, cls = asked("-", model).model, tasks.find(task)
    folder = resolve_model(given.source, given.revision)
    memory = paths.cache() / "shares" / f"{_identity(folder, task)}.json"
    known = wire.read_json(memory)
    if known is None:
        known = _counted(cls, folder, given.source, task)
        memory.parent.mkdir(exist_ok=True)
        wire.write_json(memory, known)
    return known


def _identity(folder: Path, task: str) -> str:
    """What the counts depend on: the shapes of the base, the task, and the code."""
    from workbench.models.bundled import weights_sha256

    config = (folder / "config.json").read_text(encoding="utf-8")
    state = json.dumps([weights_sha256(folder), config, task, detach.code_stamp()])
    return hashlib.sha256(state.encode()).hexdigest()[:24]


def _counted(cls: "type[Task]", folder: Path, source: str, task: str) -> dict[str, Any]:
    from workbench.kernel import registry

    try:
        made = cls(folder, ("a", "b"), 128)
        host = made.host(meta=True)
        head = made.head(host)
    except grounds.UNFIT as error:
        raise grounds.misfit(source, task, error) from None
    plans = {key: _plan(host, head, key, tuple(cls.provides)) for key in (*registry.methods(), *registry.aliases())}
    base = max(plan.base_params for plan in plans.values())
    found = {key: None if plan.problems else plan.trainable_params / max(1, base) for key, plan in plans.items()}
    return {"base_params": base, "shares": found, "problems": {k: p.problems[0] for k, p in plans.items() if p.problems}}


def _plan(host: "nn.Module", head: tuple[str, ...], name: str, provides: tuple[str, ...]) -> "Plan":
    """What one method counts at its usual settings; the size of the data does not matter to that."""
    from workbench.kernel import registry
    from workbench.plan import Entry, Plan, Workload, count_method

    try:
        entry = Entry(name, registry.find(name)[0], registry.configure(name, {}))
        return count_method(host, head, entry, Workload(1, 1.0, 1, provides))
    except WorkbenchError as error:
        return Plan(problems=(str(error),))


def ask(model: Mapping[str, Any] | str, task: str) -> dict[str, Any]:
    """`shares` without importing torch here: the engine answers."""
    return engine.ask("shares", {"model": model, "task": task})
