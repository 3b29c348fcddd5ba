"""From an ExperimentSpec to everything its plan and its runs need: resolved data, base model, methods and their plans."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from workbench.core.errors import WorkbenchError, from_pydantic
from workbench.core.run_spec import DataRef, ModelRef
from workbench.core.spec import ExperimentSpec, MethodEntry, TrainingSpec, with_baseline
from workbench.services import grounds, others, starts

if TYPE_CHECKING:
    from workbench.data import Splits
    from workbench.evaluate.starting import Start
    from workbench.plan import Entry, Plan
    from workbench.tasks import Task


@dataclass(frozen=True)
class Line:
    """One entry of `methods:`, resolved.

    Attributes:
        entry: as the person wrote it, with its unique label.
        key, preset: the method's file key and the preset in force.
        config: the whole Config as plain values; `modifiers`, `recipe` likewise.
        training: the procedure with the entry's own values; its learning rate is a number, or several to search.
        rate_source: where the learning rate comes from.
        plan: the prediction; holds the problems.
        start: the saved adapter it starts from.
        notes: what to know before launch.
        models: the frozen models its recipe names.
        planned: what the plan was made from.
    """

    entry: MethodEntry
    plan: "Plan"
    key: str = ""
    preset: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    modifiers: tuple[dict[str, Any], ...] = ()
    recipe: dict[str, Any] | None = None
    training: TrainingSpec = field(default_factory=TrainingSpec)
    rate_source: str = ""
    start: "Start | None" = None
    notes: tuple[str, ...] = ()
    models: others.Refs = field(default_factory=dict)
    planned: "Entry | None" = None


@dataclass(frozen=True)
class Prepared:
    """A resolved experiment; `problem` is what keeps the base model itself from being trained."""

    spec: ExperimentSpec
    data: DataRef | tuple[DataRef, ...]
    model: ModelRef
    ground: grounds.Ground
    lines: tuple[Line, ...]
    rows: dict[str, int]
    notes: tuple[str, ...]
    problem: str = ""

    def problems(self) -> list[str]:
        """Every sentence that blocks the launch, each once."""
        every = [self.problem] if self.problem else []
        return list(dict.fromkeys(every + [p for line in self.lines for p in line.plan.problems]))


def prepare(spec: ExperimentSpec, strict: bool = False) -> Prepared:
    """Resolve and plan an experiment; writes nothing but caches and allocates no weights.

    Args:
        spec: the experiment.
        strict: for a launch: raise the first problem of a method's options at once, and have the base's weights here.

    Raises:
        WorkbenchError: the task, the data or the base model cannot be used; problems of single methods are in their plans.
    """
    from workbench import tasks
    from workbench.data import load_table, resolve
    from workbench.data.image_doctor import refuse_unreadable
    from workbench.data.load import SPLITS

    cls = tasks.find(spec.task)
    spec = with_baseline(spec)
    resolved = [_resolved(entry, spec) for entry in spec.methods]
    if strict and (bad := [r for r in resolved if isinstance(r, WorkbenchError)]):
        raise bad[0]
    folder, model, problem, note = grounds.base(spec, weights=strict)
    data = resolve(spec.data)
    splits = load_table(data, cls.parts)
    if "image" in splits.train.columns:
        refuse_unreadable([image for name in SPLITS for image in getattr(splits, name).column("image")])
    try:
        task = cls(folder, splits.labels, spec.training.max_length)
    except (OSError, ValueError, KeyError) as error:
        raise grounds.misfit(spec.model.source, spec.task, error) from None
    ground = grounds.stand(spec, task, splits, model)
    lines = tuple(_line(found, entry, ground, task, splits) for found, entry in zip(resolved, spec.methods, strict=True))
    rows = {name: len(getattr(splits, name)) for name in SPLITS}
    unused = others.unused(spec.models, [line.models for line in lines])
    notes = (*splits.notes, *([note] if note else []), *unused, *(note for line in lines for note in line.notes))
    return Prepared(spec, data, model, ground, lines, rows, notes, problem)


def _line(
    found: "tuple[Line, Entry] | WorkbenchError", entry: MethodEntry, ground: grounds.Ground, task: "Task", splits: "Splits"
) -> Line:
    from workbench.plan import Plan

    if isinstance(found, WorkbenchError):
        return Line(entry, Plan(problems=(str(found),)))
    line, planned = found
    if not (wrong := others.problems(line.models, task, splits.entries)):
        planned = replace(planned, others=others.shapes(line.models, task))
    plan, notes = starts.fit(line.start, planned, ground.plan(planned, line.training), ground, splits.labels)
    if wrong:
        plan = replace(plan, problems=(*plan.problems, *wrong), peak_memory_bytes=None, train_seconds=None)
    if not plan.exact:
        notes = [
            *notes,
            f"{entry.label}: the parameters are the most there can be; weights or training decide how many it keeps.",
        ]
    return replace(line, plan=plan, notes=notes, planned=planned)


def _resolved(entry: MethodEntry, spec: ExperimentSpec) -> "tuple[Line, Entry] | WorkbenchError":
    """The line without its plan, and what the plan is made from; or what is wrong with the entry."""
    from workbench import modifiers, recipes
    from workbench.kernel import registry
    from workbench.plan import Entry, Plan

    try:
        key, cls, preset = registry.find(entry.method, entry.preset)
        cfg = registry.configure(entry.method, entry.config, entry.preset)
        changed = [modifiers.resolve(m) for m in entry.modifiers]
        recipe = recipes.configure(entry.recipe)
        training = _training(entry, spec.training)
        start, models = starts.find(entry.init_from), others.find(recipe, spec.models)
    except WorkbenchError as error:
        return error
    rates = training.learning_rate
    source = f"search over {len(rates)} rates" if isinstance(rates, tuple) else "given"
    if training.learning_rate == "auto":
        rate, source = preset.default_lr or cls.default_lr
        training = training.model_copy(update={"learning_rate": float(rate)})
    full = [{"modifier": m["modifier"], **c.model_dump(mode="json")} for m, (_, c) in zip(entry.modifiers, changed, strict=True)]
    values = None if entry.recipe is None else {"recipe": entry.recipe["recipe"], **recipe[1].model_dump(mode="json")}
    name = entry.preset or (entry.method if entry.method in registry.aliases() else None)
    line = Line(entry, Plan(), key, name, cfg.model_dump(mode="json"), tuple(full), values, training, source, start, (), models)
    return line, Entry(entry.label, key, cfg, tuple(changed), recipe)


def _training(entry: MethodEntry, common: TrainingSpec) -> TrainingSpec:
    try:
        return TrainingSpec.model_validate({**common.model_dump(), **entry.training})
    except ValidationError as error:
        raise from_pydantic(error, f"training of {entry.label}", TrainingSpec.model_fields) from None
