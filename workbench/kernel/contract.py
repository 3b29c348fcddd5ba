"""The contract: what a method file must say, and what the kernel does for each kind of part.

A method is one final class: a part of one kind, or a `Composite` of several. Capabilities follow from the verbs it implements.
A part is built once per site (weight, activation) or once per host (token, side); a select part only chooses base tensors.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from workbench.core.types import Paper, PartKind, PeftTwin, Placement, Preset, Site

Context = Mapping[str, Any]
"""Read-only facts of one forward pass: mask, positions, task, step, taps[role], ... (the loop and the backbone fill it)."""


class Method:
    """What every method class declares, whatever its kind."""

    Config: ClassVar[type[Placement]] = Placement
    paper: ClassVar[Paper]
    tiny: ClassVar[Placement]
    """The configuration used on the 32-wide test hosts."""
    roles: ClassVar[tuple[str, ...]] = ()
    """Default roles when the placement names none."""
    default_lr: ClassVar[tuple[float, str]] = (1e-3, "house default, no source")
    """(learning rate, where it comes from)."""
    presets: ClassVar[Mapping[str, Preset]] = {}
    peft: ClassVar[PeftTwin | None] = None
    kind: ClassVar[PartKind]
    engine: ClassVar[str] = "native"
    needs: ClassVar[tuple[str, ...]] = ()
    """Keys of the context that must be there; a missing one is a problem of the plan."""
    identity_at_init: ClassVar[bool] = True
    """Whether a fresh adapter leaves the host's output unchanged."""
    not_mergeable: ClassVar[str] = ""
    """Why no single weight equals the adapted module; empty if it can be merged."""
    not_shared: ClassVar[str] = ""
    """Why processes cannot share its batches; empty if what they see together is all that moves it."""
    excused: ClassVar[Mapping[str, str]] = {}
    """Contract check -> the reason why this method is expected to fail it; shown in the catalogue."""

    @staticmethod
    @abstractmethod
    def n_params(cfg: Any, sites: list[Site]) -> int:
        """New scalars of the adapter on `sites` (adapter only, from the formula, nothing is allocated)."""

    @classmethod
    def also_trains(cls, cfg: Any) -> tuple[str, ...]:
        """Roles whose base tensors are unfrozen and stored with the adapter, counted apart."""
        return ()

    @classmethod
    def build_shared(cls, cfg: Any, sites: list[Site], gen: torch.Generator) -> nn.Module | None:
        """A bank, router or hypernetwork that all parts refer to; stored once."""
        return None

    @classmethod
    def mergeable(cls, cfg: Any) -> bool:
        """Whether `merge` exists for this configuration."""
        return not cls.not_mergeable

    @classmethod
    def starts_as_base(cls, cfg: Any) -> bool:
        """Whether a fresh adapter of this configuration leaves the host's output unchanged."""
        return cls.identity_at_init

    @classmethod
    def counts_exactly(cls, cfg: Any) -> bool:
        """Whether `n_params` is exact; False where only weights or training can tell, then it is the most there can be."""
        return True

    @classmethod
    def packed(cls, cfg: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """An adapter's tensors, by name, as its file holds them."""
        return tensors

    @classmethod
    def unpacked(cls, cfg: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """What `packed` gave, as tensors that can be loaded; WorkbenchError where it cannot have given them."""
        return tensors

    @classmethod
    def calibration_rows(cls, cfg: Any) -> int:
        """Training rows that the parts `observe` before training; 0 for none."""
        return 0

    @classmethod
    def problem(cls, cfg: Any, sites: list[Site]) -> str:
        """Why this configuration cannot go on these sites, in one sentence; empty if it can. A problem of the plan."""
        return ""


class Part(Method, nn.Module, ABC):
    """A module at one site. `cfg`, `site` and `shared` are references, never registered as children."""

    def __init__(self, cfg: Any, site: Site, shared: nn.Module | None) -> None:
        super().__init__()
        self.cfg, self.site = cfg, site
        object.__setattr__(self, "shared", shared)  # registering it here would store it once per site

    def penalty(self) -> Tensor | None:
        """A term added to the loss, e.g. an orthogonality penalty; None for none."""
        return None

    def on_step(self, step: int, steps: int) -> Iterable[nn.Parameter]:
        """Called after optimizer step `step` (from 1) of `steps`; returns the tensors whose moments start anew."""
        return ()

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """Optimizer groups of this part's trainable tensors; every tensor exactly once."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": lr}]

    def observe(self, x: Tensor) -> None:
        """What the bare base feeds the site in one calibration batch: x (n, d_in) in fp32, without padding."""

    def prepare(self, weight: Tensor | None) -> None:
        """Called once after the last `observe`, with the weight as for `__init__`: what it leaves must lie in stored tensors."""

    def progress(self) -> dict[str, Tensor]:
        """What a checkpoint needs besides parameters and buffers, so that training goes on bitwise, e.g. running scores."""
        return {}

    def resume(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Take up training after optimizer step `step`; tensors: what `progress` gave, on the CPU."""

    def in_use(self) -> int | None:
        """New scalars that count now where training removes or gathers some; None for all that train."""
        return None


class WeightPart(Part):
    """Changes one weight matrix: W' = W + delta. Mergeable and free at inference."""

    kind = "weight"
    reads_output: ClassVar[bool] = False
    """Whether `apply_to` wants y = W x (without the bias); otherwise it gets None."""
    reads_weight: ClassVar[bool] = True
    """Whether `apply_to` wants the weight; False saves a cast over low-precision bases."""
    whole: ClassVar[bool] = False
    """Whether `instead` computes the module's whole output, and `apply_to` is not asked."""

    def __init__(self, cfg: Any, site: Site, shared: nn.Module | None, gen: torch.Generator, weight: Tensor) -> None:
        """weight: the site's base weight as a matrix (d_out, d_in) in fp32; read it, do not keep it."""
        super().__init__(cfg, site, shared)

    @abstractmethod
    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        """The change (d_out, d_in) in fp32, given the fp32 base weight (d_out, d_in)."""

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        """delta @ x for x (..., d_in), the addition to the output (..., d_out); override when a cheaper order exists."""
        return nn.functional.linear(x, self.delta(weight, ctx))

    def instead(self, below: Callable[..., Any] | None, weight: float, rows: Tensor | None, x: Tensor, *args: Any) -> Tensor:
        """The module's output with this part in it; `below`: the call this one wraps, None for the bare module."""
        raise TypeError(f"{type(self).__name__} declares whole=True and must implement instead()")

    def delta_bias(self, bias: Tensor, weight: Tensor | None, ctx: Context) -> Tensor | None:
        """The change of the bias (d_out,), or None; the base weight (d_out, d_in) may be None where `reads_weight` is False."""
        return None


class ActivationPart(Part):
    """Changes what a module returns, or how it is called."""

    kind = "activation"
    not_mergeable = "it changes activations, so no single weight equals it"

    def __init__(self, cfg: Any, site: Site, shared: nn.Module | None, gen: torch.Generator, weight: Tensor | None) -> None:
        """weight: the site's base weight (d_out, d_in) in fp32 where it has one."""
        super().__init__(cfg, site, shared)

    def edit(self, h: Tensor, x: Tensor, ctx: Context) -> Tensor:
        """The new output of the module: h (batch, ..., d) its output, x the (sub)layer's input."""
        return h

    def around(self, call: Callable[..., Any], args: tuple, kwargs: dict, ctx: Context) -> Any:
        """Run, skip or change the call of the module itself."""
        return call(*args, **kwargs)


@dataclass(frozen=True)
class Port:
    """What a token part needs to know of the host."""

    hidden: int
    layers: int
    kv_heads: int
    head_dim: int


class TokenPart(Part):
    """Adds virtual tokens at the input, or keys and values in every layer."""

    kind = "token"
    identity_at_init = False
    not_mergeable = "it adds tokens to the sequence, and no weight does that"
    where: ClassVar[str] = "input"
    """`input`: `tokens` are put before the embedded sequence; `layers`: `keys_values` are put before each layer's own."""

    def __init__(self, cfg: Any, port: Port, site: Site, gen: torch.Generator, embedding: Tensor | None) -> None:
        """embedding: the host's input embedding (vocabulary, hidden) in fp32 where it has one."""
        super().__init__(cfg, site, None)
        self.port = port

    @classmethod
    def problem(cls, cfg: Any, sites: list[Site]) -> str:
        """Depths, which mean nothing here, or an encoder without a place for virtual tokens."""
        if cfg.depths is not None:
            return "virtual tokens belong to the whole base model; leave depths empty."
        return next((reason for s in sites for where, reason in s.refuses if where == cls.where), "")

    def tokens(self, ctx: Context) -> Tensor:
        """Virtual tokens (n, hidden)."""
        raise TypeError(f"{type(self).__name__} declares where='input' and must implement tokens()")

    def keys_values(self, ctx: Context) -> tuple[Tensor, Tensor]:
        """Keys and values, each (layers, n, kv_heads, head_dim)."""
        raise TypeError(f"{type(self).__name__} declares where='layers' and must implement keys_values()")


class SidePart(Part):
    """A small network beside the host that reads block outputs and writes one place; nothing flows back into the base."""

    kind = "side"
    not_mergeable = "it is a network beside the base, not a change of its weights"
    reads: ClassVar[str] = "block.out"
    roles = ("model.out",)

    def __init__(self, cfg: Any, reads: list[Site], site: Site, shared: nn.Module | None, gen: torch.Generator) -> None:
        super().__init__(cfg, site, shared)

    @abstractmethod
    def side(self, taps: list[Tensor], ctx: Context) -> Tensor:
        """The addition (batch, tokens, d) to the written place; taps: detached outputs of the read sites, by depth."""


class SelectPart(Method):
    """Trains chosen tensors of the base itself; they are stored with the adapter and put back on detach."""

    kind = "select"

    @classmethod
    @abstractmethod
    def selects(cls, cfg: Any, site: Site) -> Iterable[str]:
        """Names of the site's own tensors to train, e.g. ('bias',); sites include every module with parameters."""

    @staticmethod
    def n_params(cfg: Any, sites: list[Site]) -> int:
        """Select parts add no scalars; the selected base tensors are counted by the kernel."""
        return 0


@dataclass(frozen=True)
class Slot:
    """One kind of part inside a composite: its class and the roles it takes unless the placement names others."""

    part: type[Part]
    roles: tuple[str, ...]


class Composite(Method):
    """A method of several parts of any kind that share `build_shared`."""

    kind = "composite"

    @classmethod
    @abstractmethod
    def parts(cls, cfg: Any) -> list[Slot]:
        """The parts of this configuration."""

    @classmethod
    def problem(cls, cfg: Any, sites: list[Site]) -> str:
        """The first problem of one of the parts on its own sites."""
        near = ((slot.part, [s for s in sites if s.role in (cfg.roles or slot.roles)]) for slot in cls.parts(cfg))
        return next((reason for part, mine in near if (reason := part.problem(cfg, mine))), "")


class Modifier(ABC):
    """Re-parametrises the tensors of any adapter; applied after building, before training."""

    Config: ClassVar[type]
    paper: ClassVar[Paper | None] = None

    @classmethod
    @abstractmethod
    def apply(cls, cfg: Any, adapter: Any, losses: Iterable[Callable[[], Tensor]], gen: torch.Generator) -> None:
        """Change the adapter in place; `losses`: calls that return the training loss of one batch, with gradients."""

    @classmethod
    @abstractmethod
    def count(cls, cfg: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Scalars of the adapter that still differ after training, from its dense tensor shapes."""
