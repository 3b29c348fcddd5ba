"""Further models of a run, e.g. a teacher: frozen, for the run's own task, and reading the training rows in their own way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.core.errors import WorkbenchError
from workbench.core.run_spec import AdapterRef, ModelRef
from workbench.data.table import Splits
from workbench.evaluate import saved
from workbench.evaluate.evaluation import forward
from workbench.kernel import registry, state
from workbench.models.bundled import resolve_model, weights_sha256
from workbench.tasks.contract import Batch, Example, Task


@dataclass(frozen=True)
class Other:
    """A model beside the one that trains: fp32, in eval mode, without gradients.

    Attributes:
        host: the model; one that comes from a run carries its adapter and head.
        task: the run's task on this model's base, with the base's own tokenizer or picture size.
        rows: the training rows by id, as this model reads them.
    """

    host: nn.Module
    task: Task
    rows: Mapping[int, Example]

    @torch.no_grad()
    def output(self, batch: Batch) -> tuple[Any, Batch]:
        """What this model says about the rows of a training batch, in fp32 even under autocast; and the rows as it read them."""
        device = next(self.host.parameters()).device
        own = self.task.batch([self.rows[i] for i in batch.ids]).to(str(device))
        with torch.autocast(device.type, enabled=False):
            return forward(self.host, own), own


def problem(name: str, ref: ModelRef | AdapterRef, task: Task, entries: Sequence[str]) -> str | None:
    """Why a further model cannot stand beside a run, in one sentence; None if it can. No weights are loaded.

    Args:
        name: what the recipe calls it.
        ref: what was resolved.
        task: of the run.
        entries: ids of the run's data entries where there are several.

    Raises:
        WorkbenchError: the adapter's folder is damaged, or its base is not here.
    """
    if isinstance(ref, ModelRef):
        if task.has_labels:
            return (
                f"the model {name} must be a run, which has a trained head for {task.key}; {ref.source} is a base model: "
                "train it and name that run."
            )
        said = task.differs(_plain(ref, task))
    else:
        meta = state.read_meta(Path(ref.path))
        saved.check(meta)
        said = task.differs(_of_run(meta))
        cls = registry.methods()[meta["method"]]
        asks = "task" in registry.needs(cls, cls.Config.model_validate(meta["config"]))
        if not said and asks and meta.get("entries", []) != list(entries):
            said = f"it knows the data entries {', '.join(meta.get('entries', []))}, here they are {', '.join(entries) or 'one'}"
    return f"the model {name} must be one for this run's task; {said}: name another." if said else None


def _plain(ref: ModelRef, task: Task) -> Task:
    return type(task)(resolve_model(ref.source, ref.revision), task.labels, task.max_length)


def shape(ref: ModelRef | AdapterRef, task: Task) -> tuple[nn.Module, tuple[str, ...]]:
    """A further model on the meta device, without its adapter, and the module paths of its head."""
    own = _plain(ref, task) if isinstance(ref, ModelRef) else _of_run(state.read_meta(Path(ref.path)))
    host = own.host(meta=True)
    return host, own.head(host)


def _of_run(meta: Mapping[str, Any]) -> Task:
    return saved.task_of(meta, saved.base_folder(meta))


def load(models: Mapping[str, ModelRef | AdapterRef], task: Task, splits: Splits, device: str) -> dict[str, Other]:
    """The frozen models of a run, each compared with what was submitted.

    Args:
        models: name -> what was resolved at submit.
        task: of the run.
        splits: its data.
        device: where the models go.

    Raises:
        WorkbenchError: a model has changed since, or does not fit the task.
    """
    return {name: _loaded(name, ref, task, splits, device) for name, ref in models.items()}


def _loaded(name: str, ref: ModelRef | AdapterRef, task: Task, splits: Splits, device: str) -> Other:
    _check_unchanged(name, ref)
    if said := problem(name, ref, task, splits.entries):
        raise WorkbenchError(said)
    if isinstance(ref, ModelRef):
        own = _plain(ref, task)
        host = own.host().float().to(device)
    else:
        folder = Path(ref.path)
        revived = saved.revive(state.read(folder), folder, device=device)
        host = revived.host
        length = None if task.has_labels else task.max_length  # tokens are compared one by one: both must be cut alike
        own = saved.task_of(revived.meta, revived.base, length)
    return Other(host.eval().requires_grad_(False), own, {e.id: e for e in own.examples(splits.train)})


def _check_unchanged(name: str, ref: ModelRef | AdapterRef) -> None:
    if isinstance(ref, ModelRef):
        now = weights_sha256(resolve_model(ref.source, ref.revision))
    else:
        file = Path(ref.path) / state.WEIGHTS
        now = state.file_sha256(file) if file.is_file() else ""
    if now != ref.sha256:
        raise WorkbenchError(f"the model {name} must be the one that was submitted; it has changed or is gone: submit again.")
