"""What all entries of an experiment stand on: the base model as shapes, the size of the data, the machine, and past runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.core.errors import WorkbenchError
from workbench.core.paths import named
from workbench.core.run_spec import ModelRef
from workbench.core.spec import ExperimentSpec, ModelSpec, TrainingSpec
from workbench.jobs import slots
from workbench.models.settings import Unloadable
from workbench.services.calibration import Calibration, Record

if TYPE_CHECKING:
    from torch import nn

    from workbench.data import Splits
    from workbench.plan import Entry, Machine, Plan, Room, Workload
    from workbench.tasks import Task

SAMPLE = 256  # rows that are tokenised for the plan


@dataclass(frozen=True)
class Ground:
    """Everything a plan needs besides the entry itself.

    Attributes:
        wanted: the experiment's `device`.
        host, head: the task's model on the meta device, and module paths of its head.
        work: sizes of the training rows.
        weights: bytes of the base model as loaded.
        base: sha256 of its weights, empty where they are not here.
        room: memory of the device, now.
        record: what finished runs say.
    """

    wanted: str
    host: "nn.Module"
    head: tuple[str, ...]
    work: "Workload"
    weights: int
    base: str
    room: "Room"
    record: Record

    def machine(self, training: TrainingSpec) -> "Machine":
        """Where a training will run; its precision is decided as the training decides it."""
        return _machine(self.wanted, training.precision)

    def calibration(self, training: TrainingSpec) -> Calibration:
        """What finished runs like this one teach."""
        machine = self.machine(training)
        return self.record.of(machine.device, machine.precision, self.base)

    def plan(self, entry: "Entry", training: TrainingSpec) -> "Plan":
        """The plan of one entry, with what earlier runs teach."""
        from dataclasses import replace

        from workbench.plan import plan_method

        learnt = self.calibration(training)
        plan = plan_method(self.host, self.head, entry, training, self.work, self.machine(training))
        return replace(plan, memory_factor=learnt.memory.by, seconds_factor=learnt.seconds.by)


UNFIT = (Unloadable, OSError, ValueError, KeyError)
"""transformers' many ways to say that a folder lacks something."""


def stand(spec: ExperimentSpec, task: "Task", splits: "Splits", model: ModelRef) -> Ground:
    """The ground of an experiment whose task is made and whose data are read.

    Raises:
        WorkbenchError: the base model does not fit the task, or is too large for the device.
    """
    from workbench.plan import counting, fitting, probe

    check_device(spec.device)
    try:
        host = task.host(meta=True)
        head = task.head(host)
    except UNFIT as error:
        raise misfit(spec.model.source, spec.task, error) from None
    machine = _machine(spec.device, spec.training.precision)
    weights, room = counting.weight_bytes(host), probe.room(machine.device)
    fitting.check_weights(weights, machine, room)
    work = _workload(task, host, splits)
    return Ground(spec.device, host, head, work, weights, model.sha256, room, Record.read())


def misfit(source: str, task: str, error: Exception) -> WorkbenchError:
    """The one sentence for a base model that the task cannot be built on."""
    return WorkbenchError(f"the base model {source} does not fit the task {task}: {reason(error)}.")


def reason(error: Exception) -> str:
    """What transformers complains of, as the end of a sentence."""
    return " ".join(str(getattr(error, "reason", error)).split())[:160].rstrip(". ")


def base(spec: ExperimentSpec, weights: bool) -> tuple[Path, ModelRef, str, str]:
    """(folder, reference with hash, problem, note) of the base model.

    A folder with a config but no weights can still be planned, and so can a Hub model that was never downloaded.

    Args:
        spec: the experiment.
        weights: the weights are needed too: download them if need be.

    Raises:
        WorkbenchError: there is no such model.
    """
    from workbench.models.bundled import is_complete, resolve_model, weights_sha256

    model = spec.model
    if model.load_in is not None:
        raise WorkbenchError("model.load_in needs CUDA and bitsandbytes, which this version does not drive; leave it out.")
    try:
        folder = resolve_model(model.source, model.revision, weights)
    except WorkbenchError as error:
        folder = named(model.source, "a model")
        if not (folder / "config.json").is_file():
            raise
        return folder, reference(model, ""), str(error), ""
    if not is_complete(folder):
        return folder, reference(model, ""), "", f"The weights of {model.source} are not here yet; launching downloads them."
    return folder, reference(model, weights_sha256(folder)), "", ""


def reference(model: ModelSpec, sha256: str) -> ModelRef:
    """A base model with the hash of its weights; a folder by its absolute path."""
    path = named(model.source, "a model")
    local = not model.source.startswith("bundled/") and path.is_dir()
    return ModelRef(**{**model.model_dump(), "source": str(path) if local else model.source, "sha256": sha256})


def check_device(wanted: str) -> None:
    """Refuse CUDA where there is none.

    Raises:
        WorkbenchError: torch has no CUDA device here.
    """
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
    provides = (*task.provides, *(["task"] if splits.entries else []))
    return Workload(count, sum(lengths) / len(lengths), max(lengths), provides, len(splits.validation))


def _machine(wanted: str, precision: str) -> "Machine":
    from workbench.plan import machine

    slot = slots.layout()[0]
    return machine(slot.device(wanted) if wanted == "auto" else wanted, slot.threads, precision)
