"""What a recipe must say: phases, the loss of a step, and what happens after a step and between phases. The loop drives."""

from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from workbench.core.types import Config, Paper
from workbench.evaluate.evaluation import forward
from workbench.evaluate.others import Other
from workbench.kernel.adapter import Adapter
from workbench.kernel.host import Adapters
from workbench.tasks.contract import Batch, Task

ModelName = Annotated[
    str, BeforeValidator(lambda value: str(value) if type(value) is int else value), Field(min_length=1, max_length=1000)
]
"""A further model in a recipe's Config: an entry of the spec's `models:`, or directly a run or an adapter folder."""


@dataclass(frozen=True)
class Phase:
    """A stretch of optimizer steps with an optimizer and a schedule of its own."""

    name: str
    steps: int


@dataclass(frozen=True)
class Models:
    """What a recipe works on.

    Attributes:
        host, adapters, adapter: the host with its adapters, and the one that trains.
        task, head: the task, and the head's parameters.
        others: the frozen models that the recipe's Config names, by those names.
    """

    host: nn.Module
    adapters: Adapters
    adapter: Adapter
    task: Task
    head: tuple[nn.Parameter, ...]
    others: Mapping[str, Other] = field(default_factory=lambda: MappingProxyType({}))


class Recipe(ABC):
    """A training procedure. Every verb has the standard meaning unless a final class says otherwise."""

    Config: ClassVar[type[Config]]
    paper: ClassVar[Paper | None] = None
    resumable: ClassVar[bool] = True
    counts_exactly: ClassVar[bool] = True
    """Whether `count` is exact; False where only the training can tell, then it is the most there can be."""
    judges: ClassVar[bool] = False
    """Whether `finish` needs validation rows."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Facts that every batch must carry; a task without them is a problem of the plan."""
    takes_init: ClassVar[bool] = True
    """Whether `init_from` means something here; False where the recipe itself puts tensors back to the base."""

    others: ClassVar[tuple[str, ...]] = ()
    """Fields of its Config that hold a `ModelName`; those models are loaded with the run."""

    def __init__(self, cfg: Any, models: Models, seed: int) -> None:
        self.cfg, self.models, self.seed = cfg, models, seed

    def phases(self, steps: int) -> list[Phase]:
        """How the run's optimizer steps are spent."""
        return [Phase("train", steps)]

    def step(self, batch: Batch) -> Tensor:
        """The loss of one forward pass plus the adapter's penalty."""
        loss = self.loss(forward(self.models.host, batch), batch)
        penalty = self.models.adapter.penalty()
        return loss if penalty is None else loss + penalty

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """What is minimised, from the host's output: the task's mean loss over the examples."""
        return self.models.task.losses(output, batch).mean()

    def before_update(self) -> None:
        """Called when the gradients of a step are complete, before clipping and the update."""
        return None

    def after_step(self, step: int) -> None:
        """Called after the update."""
        return None

    def between(self, done: Phase) -> None:
        """Called when a phase has ended and another follows."""
        return None

    def finish(self, validate: Callable[[], dict[str, float]]) -> dict[str, float] | None:
        """Called after the last phase, e.g. to search; its time counts as training.

        Args:
            validate: judges the models as they are on the validation rows; with `judges`, there are some.

        Returns:
            the validation metrics of what was chosen; None if nothing was.
        """
        return None

    @classmethod
    def judgements(cls, cfg: Any) -> int:
        """How often at most `finish` judges the validation rows."""
        return 0

    def kept(self) -> list[dict[str, Any]]:
        """Plain records that the run keeps in `<recipe>.json`, e.g. the candidates of a search; empty for no file."""
        return []

    def progress(self) -> dict[str, Tensor]:
        """What a checkpoint needs of the recipe besides adapter and head."""
        return {}

    def resume(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `progress` gave."""
        return None

    def trained(self) -> int | None:
        """Scalars of the adapter that can differ from the base at the end, if the recipe makes them fewer."""
        return None

    @classmethod
    def count(cls, cfg: Any, dense: int, maskable: int) -> int:
        """`trained` before the run: from the adapter's scalars and those of them that a mask may leave out."""
        return dense

    @classmethod
    def problem(cls, cfg: Any, method: str, select: bool) -> str | None:
        """One sentence if the recipe does not go with this method."""
        return None

    @classmethod
    def unshared(cls) -> str | None:
        """One sentence if several processes cannot train with this recipe."""
        if cls.step is Recipe.step and cls.loss is Recipe.loss:
            return None
        name = cls.__module__.rpartition(".")[2]
        own = f"the recipe {name} has a loss of its own, and processes can share the batches of the task's own loss only"
        return f"{own}; leave training.processes out."
