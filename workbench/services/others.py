"""Further models of a spec (`models:`, or a run named by a recipe): which are meant, and whether they fit the run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.core.errors import WorkbenchError
from workbench.core.paths import named
from workbench.core.run_spec import AdapterRef, ModelRef
from workbench.core.spec import ModelSpec
from workbench.services import adapters, grounds

if TYPE_CHECKING:
    from torch import nn

    from workbench.recipes import Recipe
    from workbench.tasks import Task

Refs = dict[str, ModelRef | AdapterRef]


def find(recipe: "tuple[type[Recipe], Any]", models: Mapping[str, ModelSpec]) -> Refs:
    """The models that a recipe names, by those names, with absolute paths and hashes.

    Args:
        recipe: (class, its Config).
        models: the spec's `models:`; a name that is not there is itself a run or an adapter folder.

    Raises:
        WorkbenchError: a name means nothing, or its model cannot be read.
    """
    cls, cfg = recipe
    names = [str(getattr(cfg, field)) for field in cls.others]
    return {name: _resolved(name, models.get(name) or ModelSpec(source=name)) for name in names}


def _resolved(name: str, model: ModelSpec) -> ModelRef | AdapterRef:
    """A source with a slash is a folder, bundled/<name> or a Hub id; any other is a run or an adapter's name."""
    from workbench.evaluate import saved, starting
    from workbench.kernel import state
    from workbench.models.bundled import resolve_model, weights_sha256

    if model.load_in is not None:
        raise WorkbenchError(f"load_in of the model {name} is not driven by this version; leave it out.")
    path = named(model.source, f"the model {name}")
    try:
        if "/" not in model.source:
            return starting.look(adapters.adapter_folder(model.source)).ref
        if (saved.place(path) / state.META).is_file():
            return starting.look(path).ref
        folder = resolve_model(model.source, model.revision)
    except WorkbenchError as error:
        raise WorkbenchError(f"the model {name} must be a run, an adapter folder or a base model: {error}") from None
    return grounds.reference(model, weights_sha256(folder))


def problems(refs: Refs, task: "Task", entries: Sequence[str]) -> tuple[str, ...]:
    """What keeps the models from standing beside a run of this task, one sentence each."""
    from workbench.evaluate import others

    found = []
    for name, ref in refs.items():
        try:
            found.append(others.problem(name, ref, task, entries))
        except WorkbenchError as error:
            found.append(f"the model {name} cannot be used: {error}")
    return tuple(sentence for sentence in found if sentence)


def shapes(refs: Refs, task: "Task") -> "tuple[tuple[nn.Module, tuple[str, ...]], ...]":
    """The models as the plan counts them: on the meta device, with the module paths of their heads."""
    from workbench.evaluate import others

    return tuple(others.shape(ref, task) for ref in refs.values())


def unused(models: Mapping[str, ModelSpec], used: Sequence[Refs]) -> list[str]:
    """A note about every entry of `models:` that no recipe names."""
    known = {name for refs in used for name in refs}
    return [f"models.{name} is used by no recipe of this experiment." for name in models if name not in known]
