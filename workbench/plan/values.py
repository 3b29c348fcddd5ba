"""What a plan is made from and what it says. Plain values."""

from dataclasses import dataclass, field
from typing import Any, Literal

from workbench import recipes
from workbench.core.types import Placement, Site


@dataclass(frozen=True)
class Entry:
    """One resolved line of `methods:`.

    Attributes:
        label: its unique label in the experiment.
        key: the method's file key.
        cfg: the method's whole Config.
        modifiers: (class, its Config) in order.
        recipe: (class, its Config).
    """

    label: str
    key: str
    cfg: Placement
    modifiers: tuple[tuple[Any, Any], ...] = ()
    recipe: tuple[Any, Any] = field(default_factory=lambda: recipes.configure(None))


@dataclass(frozen=True)
class Workload:
    """What one run has to chew through.

    Attributes:
        rows: training examples of one epoch.
        tokens: mean number of positions of an example after cutting.
        longest: positions of the longest example after cutting.
        provides: context keys that the batches carry.
    """

    rows: int
    tokens: float
    longest: int
    provides: tuple[str, ...] = ("mask",)


@dataclass(frozen=True)
class Machine:
    """Where it will run: `threads` matter on a processor; `precision` is what the matrix products use."""

    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"


@dataclass(frozen=True)
class Plan:
    """What one method will cost, and why it cannot run if it cannot.

    Attributes:
        sites: the places it is attached to, in model order.
        new_params: scalars the base does not have and that stay after training.
        base_trained_params: base scalars that differ after training.
        peak_trainable_params: what trains at the widest moment.
        head_params, base_params: sizes of the task's head and of the base without it.
        peak_memory_bytes: CUDA memory allocated, or on a processor the growth of the process over the loaded model.
        train_seconds: time of the training loop; both figures are None where a problem leaves nothing to predict.
        problems: complete sentences; any of them blocks the launch.
    """

    sites: tuple[Site, ...] = ()
    new_params: int = 0
    base_trained_params: int = 0
    peak_trainable_params: int = 0
    head_params: int = 0
    base_params: int = 0
    peak_memory_bytes: int | None = None
    train_seconds: float | None = None
    problems: tuple[str, ...] = ()

    @property
    def trainable_params(self) -> int:
        """Every scalar that differs from the base after training, without the head."""
        return self.new_params + self.base_trained_params

    @property
    def total_params(self) -> int:
        """Base, new adapter tensors and head."""
        return self.base_params + self.new_params + self.head_params

    def predicted(self) -> dict[str, float | None]:
        """The three figures that are compared with the run afterwards."""
        return {
            "trainable_params": None if self.problems else self.trainable_params,
            "peak_memory_bytes": self.peak_memory_bytes,
            "train_seconds": self.train_seconds,
        }

    def roles(self) -> dict[str, int]:
        """Role -> number of sites."""
        names = [s.role for s in self.sites]
        return {name: names.count(name) for name in dict.fromkeys(names)}
