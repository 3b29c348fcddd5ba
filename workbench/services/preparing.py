"""From an ExperimentSpec to everything its plan and its runs need: resolved data, base model, methods and their plans."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from workbench.core.errors import WorkbenchError, from_pydantic
from workbench.core.run_spec import DataRef, ModelRef
from workbench.core.spec import ExperimentSpec, MethodEntry, TrainingSpec, with_baseline
from workbench.jobs import slots

if TYPE_CHECKING:
    from torch import nn

    from workbench.data import Splits
    from workbench.plan import Entry, Machine, Plan, Workload
    from workbench.tasks import Task

SAMPLE = 256  # rows that are tokenised for the plan


@dataclass(frozen=True)
class Line:
    """One entry of `methods:`, resolved.

    Attributes:
        entry: as the person wrote it, with its unique label.
        key, preset: the method's file key and the preset in force.
        config: the whole Config as plain values; `modifiers`, `recipe` likewise.
        training: the procedure with the entry's own values; its learning rate is a number.
        rate_source: where the learning rate comes from.
        plan: the prediction; holds the problems.
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


@dataclass(frozen=True)
class Prepared:
    """A resolved experiment; `problem` is what keeps the base model itself from being trained."""

    spec: ExperimentSpec
    data: DataRef
    model: ModelRef
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
        strict: raise the first problem of a method's options at once, before anything heavy is looked at.

    Raises:
        WorkbenchError: the task, the data or the base model cannot be used; problems of single methods are in their plans.
    """
    from workbench import tasks
    from workbench.data import load_table, resolve

    cls = tasks.find(spec.task)
    spec = with_baseline(spec)
    resolved = [_resolved(entry, spec) for entry in spec.methods]
    if strict and (bad := [r for r in resolved if isinstance(r, WorkbenchError)]):
        raise bad[0]
    folder, model, problem = _base(spec)
    data = resolve(spec.data)
    splits = load_table(data, cls.parts)
    _device(spec.device)
    try:
        task = cls(folder, splits.labels, spec.training.max_length)
        host = task.host(meta=True)
        head = task.head(host)
    except (OSError, ValueError, KeyError) as error:  # transformers' many ways to say that a folder lacks something
        reason = " ".join(str(error).split())[:160].rstrip(". ")
        raise WorkbenchError(f"the base model {spec.model.source} does not fit the task {spec.task}: {reason}.") from None
    work = _workload(task, host, splits)
    lines = tuple(_line(found, entry, spec, host, head, work) for found, entry in zip(resolved, spec.methods, strict=True))
    rows = {name: len(getattr(splits, name)) for name in ("train", "validation", "test")}
    return Prepared(spec, data, model, lines, rows, splits.notes, problem)


def _base(spec: ExperimentSpec) -> tuple[Path, ModelRef, str]:
    """(folder, reference with hash, problem) of the base model; a folder with a config but no weights can still be planned."""
    from workbench.models.bundled import resolve_model, weights_sha256

    model = spec.model
    if model.load_in is not None:
        raise WorkbenchError("model.load_in needs CUDA and bitsandbytes, which this version does not drive; leave it out.")
    try:
        folder = resolve_model(model.source, model.revision, model.trust_remote_code)
    except WorkbenchError as error:
        folder = Path(model.source).expanduser()
        if not (folder / "config.json").is_file():
            raise
        return folder, _reference(spec, ""), str(error)
    return folder, _reference(spec, weights_sha256(folder)), ""


def _reference(spec: ExperimentSpec, sha256: str) -> ModelRef:
    path = Path(spec.model.source).expanduser()
    local = not spec.model.source.startswith("bundled/") and path.is_dir()
    return ModelRef(
        **{**spec.model.model_dump(), "source": str(path.resolve()) if local else spec.model.source, "sha256": sha256}
    )


def _device(wanted: str) -> None:
    if wanted == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise WorkbenchError(
                "device must be auto or cpu on this machine, which has no CUDA device that torch can use; got 'cuda'."
            )


def _workload(task: "Task", host: "nn.Module", splits: "Splits") -> "Workload":
    """Sizes of the training rows as the task encodes them, from an even sample."""
    from workbench.plan import Workload

    count = len(splits.train)
    step = max(1, count // SAMPLE)
    lengths = [e.length for e in task.encode(splits.train.select(range(0, count, step)))]
    config = host.config
    if max(lengths) == 1 and getattr(config, "patch_size", None):  # an image is as long as its patches
        lengths = [(int(config.image_size) // int(config.patch_size)) ** 2 + 1]
    return Workload(count, sum(lengths) / len(lengths), max(lengths), tuple(task.provides))


def _line(
    found: "tuple[Line, Entry] | WorkbenchError",
    entry: MethodEntry,
    spec: ExperimentSpec,
    host: "nn.Module",
    head: tuple[str, ...],
    work: "Workload",
) -> Line:
    from workbench.plan import Plan, plan_method

    if isinstance(found, WorkbenchError):
        return Line(entry, Plan(problems=(str(found),)))
    line, planned = found
    return replace(line, plan=plan_method(host, head, planned, line.training, work, _machine(spec, line.training)))


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
    except WorkbenchError as error:
        return error
    source = "given"
    if training.learning_rate == "auto":
        rate, source = preset.default_lr or cls.default_lr
        training = training.model_copy(update={"learning_rate": float(rate)})
    full = [{"modifier": m["modifier"], **c.model_dump(mode="json")} for m, (_, c) in zip(entry.modifiers, changed, strict=True)]
    values = None if entry.recipe is None else {"recipe": entry.recipe["recipe"], **recipe[1].model_dump(mode="json")}
    name = entry.preset or (entry.method if entry.method in registry.aliases() else None)
    line = Line(entry, Plan(), key, name, cfg.model_dump(mode="json"), tuple(full), values, training, source)
    return line, Entry(entry.label, key, cfg, tuple(changed), recipe)


def _training(entry: MethodEntry, common: TrainingSpec) -> TrainingSpec:
    from workbench.core.errors import NotBuiltYet

    try:
        training = TrainingSpec.model_validate({**common.model_dump(), **entry.training})
    except ValidationError as error:
        raise from_pydantic(error, f"training of {entry.label}", TrainingSpec.model_fields) from None
    if isinstance(training.learning_rate, tuple):
        raise NotBuiltYet("a list of learning rates (a search per method) is not built yet; give one rate or auto.")
    return training


def _machine(spec: ExperimentSpec, training: TrainingSpec) -> "Machine":
    from workbench.plan import machine

    slot = slots.layout()[0]
    return machine(slot.device(spec.device) if spec.device == "auto" else spec.device, slot.threads, training.precision)
