"""Elastic parts: one set of tensors that holds many smaller adapters, and one of those that is chosen.

While training, every step draws one for each group of sites and trains only that; the first steps take the largest, so that
every tensor has moved before parts of it are left out. Everywhere else the chosen one counts, the largest until someone
chooses another (the recipe `search`).
"""

import random
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from workbench.core.types import Site
from workbench.kernel.contract import Part

WHOLE_STEPS = 3
"""Steps at the start that train the largest."""


class Draws(nn.Module):
    """What every group draws in every step follows from one seed; nothing of it is stored."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def of(self, group: str, step: int) -> random.Random:
        """A generator for one group and one step."""
        return random.Random(f"{self.seed}/{group}/{step}")


class Elastic(Part):
    """A part of which smaller forms can be chosen; put it before the kind: `class X(Elastic, WeightPart)`.

    Attributes:
        choice: the chosen value of every entry, stored with the adapter where there is more than one to choose from.
        drawn: what the current training step draws; None for what is chosen.
    """

    choice: Tensor
    drawn: tuple[int, ...] | None = None

    @abstractmethod
    def choices(self) -> tuple[tuple[int, ...], ...]:
        """For each entry the values it may take, from the smallest to the largest."""

    @abstractmethod
    def size(self, choice: Sequence[int]) -> int:
        """Scalars that take part in a choice."""

    @property
    def group(self) -> str:
        """Parts of one group always take the same choice; each is alone unless a class says otherwise."""
        return self.site.key

    def start(self) -> None:
        """Choose the largest; called at the end of the constructor."""
        self.register_buffer("choice", torch.tensor(self.largest()), persistent=self.elastic)

    def largest(self) -> tuple[int, ...]:
        """The choice of everything."""
        return tuple(values[-1] for values in self.choices())

    @property
    def elastic(self) -> bool:
        """Whether there is anything to choose."""
        return any(len(values) > 1 for values in self.choices())

    @torch.no_grad()
    def choose(self, choice: Sequence[int]) -> None:
        """Let this choice stand from now on."""
        self.choice.copy_(torch.tensor(choice))

    def now(self) -> tuple[int, ...]:
        """The choice of this forward pass."""
        return self.drawn if self.training and self.drawn is not None else self.chosen()

    def chosen(self) -> tuple[int, ...]:
        """The choice that stands."""
        return self.largest() if self.choice.is_meta else tuple(self.choice.tolist())  # a plan's adapters hold no values

    def in_use(self) -> int:
        """The scalars of the choice that stands."""
        return self.size(self.chosen())

    def on_step(self, step: int, steps: int) -> Iterable[nn.Parameter]:
        """Draw what the next step trains."""
        if self.elastic:
            self.drawn = self._draw(step) if step >= WHOLE_STEPS else self.largest()
        return ()

    def resume(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """The draw of the next step, as an uninterrupted training would have made it."""
        self.on_step(step, step)

    def _draw(self, step: int) -> tuple[int, ...]:
        """One value per entry, anew until something of the part trains."""
        rng = self.shared.of(self.group, step)  # type: ignore[attr-defined]
        while True:
            drawn = tuple(rng.choice(values) for values in self.choices())
            if self.size(drawn):
                return drawn

    @classmethod
    def build_shared(cls, cfg: Any, sites: list[Site], gen: torch.Generator) -> Draws:
        """What all parts draw from."""
        return Draws(int(torch.randint(2**31, (), generator=gen, device="cpu")))
