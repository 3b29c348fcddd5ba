"""Small methods that exist only in these tests: each shows one verb of the contract as plainly as can be."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.contract import ActivationPart, Composite, Context, SelectPart, Slot, WeightPart

PAPER = Paper("none", "https://example.org")


class Plain(Placement):
    """No options."""


class Dense(WeightPart):
    """W' = W + D, b' = b + d; D and d drawn from N(0, 0.1)."""

    Config, tiny, paper, roles = Plain, Plain(), PAPER, ("attn.q",)

    def __init__(self, cfg: Plain, site: Site, shared: None, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.D = nn.Parameter(0.1 * torch.randn(site.shape, generator=gen))
        self.d = nn.Parameter(0.1 * torch.randn(site.d_out, generator=gen))

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        return self.D

    def delta_bias(self, bias: Tensor, weight: Tensor | None, ctx: Context) -> Tensor:
        return self.d

    @staticmethod
    def n_params(cfg: Plain, sites: list[Site]) -> int:
        return sum(s.d_in * s.d_out + s.d_out for s in sites)


class Scaled(WeightPart):
    """W' = 2 W by way of y: reads_output."""

    Config, tiny, paper, roles, reads_output = Plain, Plain(), PAPER, ("attn.v",), True

    def __init__(self, cfg: Plain, site: Site, shared: None, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.factor = nn.Parameter(torch.ones(()))

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        return self.factor * weight

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        assert y is not None
        return self.factor * y

    @staticmethod
    def n_params(cfg: Plain, sites: list[Site]) -> int:
        return len(sites)


class Shift(ActivationPart):
    """h' = h + v; counts how often it ran and keeps what it saw."""

    Config, tiny, paper, roles = Plain, Plain(), PAPER, ("block.out",)

    def __init__(self, cfg: Plain, site: Site, shared: None, gen: torch.Generator, weight: Tensor | None) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.v = nn.Parameter(torch.randn(site.d_out, generator=gen))
        self.seen: list[tuple[Tensor, Tensor, dict[str, Any]]] = []

    def edit(self, h: Tensor, x: Tensor, ctx: Context) -> Tensor:
        self.seen.append((h.detach(), x.detach(), dict(ctx)))
        return h + self.v

    @staticmethod
    def n_params(cfg: Plain, sites: list[Site]) -> int:
        return sum(s.d_out for s in sites)


class Fails(Shift):
    """Raises in the middle of the forward pass."""

    def edit(self, h: Tensor, x: Tensor, ctx: Context) -> Tensor:
        raise ArithmeticError("planned")


class Skip(ActivationPart):
    """Skips its block while `ctx['skip']` is set: the input goes straight through."""

    Config, tiny, paper, roles = Plain, Plain(), PAPER, ("block.out",)

    def around(self, call: Callable[..., Any], args: tuple, kwargs: dict, ctx: Context) -> Any:
        if not ctx.get("skip"):
            return call(*args, **kwargs)
        return args[0]

    @staticmethod
    def n_params(cfg: Plain, sites: list[Site]) -> int:
        return 0


class Half(ActivationPart):
    """Halves what goes into the module, by `around`, and marks the order in which parts wrap."""

    Config, tiny, paper, roles = Plain, Plain(), PAPER, ("ffn.down",)

    def around(self, call: Callable[..., Any], args: tuple, kwargs: dict, ctx: Context) -> Any:
        return call(args[0] / 2, *args[1:], **kwargs)

    @staticmethod
    def n_params(cfg: Plain, sites: list[Site]) -> int:
        return 0


class Biases(SelectPart):
    """Every bias of the base."""

    Config, tiny, paper = Plain, Plain(), PAPER

    @classmethod
    def selects(cls, cfg: Plain, site: Site) -> Iterable[str]:
        return [n for n, _ in site.tensors if n == "bias"]


class Words(SelectPart):
    """The token embedding, which language models tie to their output."""

    Config, tiny, paper, roles = Plain, Plain(), PAPER, ("embed",)

    @classmethod
    def selects(cls, cfg: Plain, site: Site) -> Iterable[str]:
        return ["weight"]


class Pair(Composite):
    """A dense change of two roles and a shift after each block; norms train too, and a bank is shared."""

    Config, tiny, paper = Plain, Plain(), PAPER
    not_mergeable = "one half of it changes activations"

    @classmethod
    def parts(cls, cfg: Plain) -> list[Slot]:
        return [Slot(Dense, ("attn.q", "block.out")[:1]), Slot(Shift, ("attn.q", "block.out"))]

    @classmethod
    def also_trains(cls, cfg: Plain) -> tuple[str, ...]:
        return ("norms",)

    @classmethod
    def build_shared(cls, cfg: Plain, sites: list[Site], gen: torch.Generator) -> nn.Module:
        return nn.Linear(2, 2)

    @staticmethod
    def n_params(cfg: Plain, sites: list[Site]) -> int:
        return 6 + sum((s.d_in * s.d_out + s.d_out) * (s.role == "attn.q") + s.d_out for s in sites)


METHODS = {cls.__name__.lower(): cls for cls in (Dense, Scaled, Shift, Fails, Skip, Half, Biases, Words, Pair)}
