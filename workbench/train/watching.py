"""What a training came to, and the watch over its first steps: what should move moves, and nothing else."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from workbench.core.errors import WorkbenchError
from workbench.recipes import Models

CHECKED_STEPS = 3
SAMPLE = 4096


@dataclass
class Outcome:
    """What a training did: steps and examples trained, seconds without validation, the last validation metrics."""

    steps: int = 0
    examples: int = 0
    seconds: float = 0.0
    first_step: float | None = None
    validation: dict[str, float] = field(default_factory=dict)
    peak_trainable: int = 0


class RateFailed(WorkbenchError):
    """This learning rate does not train: the loss is not finite, or nothing moves. `done` is what was done until then."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.done = Outcome()


class Watch:
    """Asserts after the first steps that every trainable tensor got a gradient and moved, and that nothing else did."""

    def __init__(self, models: Models) -> None:
        host = models.host
        head = {id(p) for p in models.head}
        self.trainable = {f"adapter {n}": p for n, p in models.adapter.named_trainable().items()}
        self.trainable |= {f"head {n}": p for n, p in host.named_parameters() if id(p) in head}
        mine = {id(p) for p in self.trainable.values()}
        self.frozen = {n: p for n, p in host.named_parameters() if id(p) not in mine}
        self.versions = {n: p._version for n, p in self.frozen.items()}
        self.before = {n: _sample(p) for n, p in self.trainable.items()}
        self.reached: set[str] = set()

    def after_backward(self) -> None:
        """Note which tensors got a gradient."""
        self.reached |= {n for n, p in self.trainable.items() if p.grad is not None}

    def check(self, moved: bool) -> None:
        """Raise if a tensor that should train does not, or one that should not does.

        Args:
            moved: also demand that values changed; a factor behind one that starts at zero needs more than one step.
        """
        for name, param in self.trainable.items():
            if name not in self.reached:
                raise WorkbenchError(
                    f"{name} should train but got no gradient; the method does not reach the loss on this model."
                )
            if moved and torch.equal(self.before[name], _sample(param)):
                raise RateFailed(f"{name} should train but did not move in {CHECKED_STEPS} steps; raise learning_rate.")
        for name, param in self.frozen.items():
            if param._version != self.versions[name] or param.grad is not None:
                raise WorkbenchError(f"the frozen tensor {name} was changed by training; this is a bug of the method.")


def _sample(param: Tensor) -> Tensor:
    """At most SAMPLE values of a tensor, evenly spread."""
    flat = param.detach().flatten()
    return flat[:: max(flat.numel() // SAMPLE, 1)].clone()
