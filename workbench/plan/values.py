"""What a plan is made from and what it says. Plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from workbench import recipes
from workbench.core.types import Placement, Site

FORMULA = 3
"""Number of the formulas behind memory and seconds: raised with them, so that no factor is learnt from others."""


@dataclass(frozen=True)
class Entry:
    """One resolved line of `methods:`.

    Attributes:
        label: its unique label in the experiment.
        key: the method's file key.
        cfg: the method's whole Config.
        modifiers: (class, its Config) in order.
        recipe: (class, its Config).
        others: the frozen models that the recipe asks at every step, as shapes: (host, module paths of its head).
    """

    label: str
    key: str
    cfg: Placement
    modifiers: tuple[tuple[Any, Any], ...] = ()
    recipe: tuple[Any, Any] = field(default_factory=lambda: recipes.configure(None))
    others: tuple[tuple[Any, tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class Workload:
    """What one run has to chew through.

    Attributes:
        rows: training examples of one epoch.
        tokens: mean number of positions of an example after cutting.
        longest: positions of the longest example after cutting.
        provides: context keys that the batches carry.
        judged: rows of the validation split, which is judged in batches twice as large.
    """

    rows: int
    tokens: float
    longest: int
    provides: tuple[str, ...] = ("mask",)
    judged: int = 0


@dataclass(frozen=True)
class Machine:
    """Where it will run: `threads` matter on a processor; `precision` is what the matrix products use."""

    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"


@dataclass(frozen=True)
class Room:
    """Memory of a device in bytes, None where it cannot be told."""

    free: int | None = None
    total: int | None = None


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
        after_seconds: the part of it that the recipe needs after the last step.
        memory: what holds the bytes of `peak_memory_bytes`.
        steps: optimizer steps of the run.
        memory_factor, seconds_factor: what earlier runs teach to multiply the two figures by.
        exact: whether the counts are exact; False where weights or training decide, then they are the most there can be.
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
    after_seconds: float = 0.0
    memory: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    steps: int | None = None
    memory_factor: float = 1.0
    seconds_factor: float = 1.0
    exact: bool = True
    problems: tuple[str, ...] = ()

    @property
    def trainable_params(self) -> int:
        """Every scalar that differs from the base after training, without the head."""
        return self.new_params + self.base_trained_params

    @property
    def total_params(self) -> int:
        """Base, new adapter tensors and head."""
        return self.base_params + self.new_params + self.head_params

    def seconds_per_step(self) -> float | None:
        """Predicted seconds of one optimizer step."""
        told = self.train_seconds
        return None if told is None or not self.steps else (told - self.after_seconds) * self.seconds_factor / self.steps

    def seconds_of(self, steps: int) -> float:
        """Predicted seconds of a training of so many steps, if the plan has a time."""
        return (self.seconds_per_step() or 0.0) * steps + self.after_seconds * self.seconds_factor

    def raw(self) -> dict[str, float | None]:
        """The three figures as the formulas give them."""
        return {
            "trainable_params": None if self.problems else self.trainable_params,
            "peak_memory_bytes": self.peak_memory_bytes,
            "train_seconds": self.train_seconds,
        }

    def predicted(self) -> dict[str, float | None]:
        """The three figures that are shown and compared with the run afterwards: those of `raw`, times the factors."""
        memory = None if self.peak_memory_bytes is None else round(self.peak_memory_bytes * self.memory_factor)
        seconds = None if self.train_seconds is None else round(self.train_seconds * self.seconds_factor, 3)
        return {**self.raw(), "peak_memory_bytes": memory, "train_seconds": seconds}

    def remembered(self) -> dict[str, float | None]:
        """What a run keeps of its plan: `predicted`, and what the next calibration needs of it."""
        raw = {f"raw_{name}": value for name, value in self.raw().items() if name != "trainable_params"}
        return {**self.predicted(), **raw, "steps": self.steps, "formula": FORMULA}

    def roles(self) -> dict[str, int]:
        """Role -> number of sites."""
        names = [s.role for s in self.sites]
        return {name: names.count(name) for name in dict.fromkeys(names)}
