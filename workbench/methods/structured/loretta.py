"""LoRETTA: the matrices of LoRA or of a bottleneck adapter are tensor trains, a few small cores each.

    TT(G) = reshape(G_1 G_2 .. G_D, (M, N))      G_i: (p_{i-1}, k_i, p_i),  p_0 = p_D = 1,  prod k = M N,  a prefix has product M
    adapter:  y' = y + s (TT_U^T f(TT_D^T y + b_D) + b_U)      TT_D: (d, m),  TT_U: (m, d),  b = 0,  f = relu
    weight:   W' = W + s (TT_A TT_B)^T                         TT_A: (d_in, m),  TT_B: (m, d_out)
    G_i ~ N(0, sigma^(2/D) / p_i),  sigma^2 = 1 / (M + N);  the last core of TT_U and of TT_B is 0

All inner bonds p are `bond` wide. `inner` gives the factors k of m; the widths of the base are split into balanced factors of
at most 16, mirrored in the second train. The cores of each side are first multiplied into (M, p) and (p, N) matrices, so the
M x N matrix is built for merging only. The start is exactly the base. Every LayerNorm of the base trains too.

Parameters per site: per train sum_i p_{i-1} k_i p_i, of two trains; in the adapter form + m + d for biases.

Deviates from the paper: the last core of the second train starts at zero, where the paper subtracts the noise of a non-zero
start; the classifier belongs to the task and is no tensor train.
"""

import functools
import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, Placement, Preset, Site
from workbench.kernel.contract import ActivationPart, Composite, Context, Slot, WeightPart

Factor = Annotated[int, Field(ge=2, le=4096)]
WHERE = {"adapter": ("attn.block", "ffn.block"), "weight": ("attn.q", "attn.v")}
MEASURED = "best of 2e-3, 5e-3 and 2e-2 on bundled/minilm (validation, 76 steps of 32)"


class LoRETTAConfig(Placement):
    """Options of LoRETTA; the defaults are the adapter form's."""

    form: Literal["adapter", "weight"] = Field("adapter", description="Trains of a bottleneck adapter, or of LoRA's A and B.")
    inner: tuple[Factor, ...] = Field((8, 8), min_length=1, max_length=8, description="Factors of the inner width m.")
    bond: int = Field(5, ge=1, le=256, description="Bond width p between neighbouring cores (the tensor-train rank).")
    scale: float = Field(1.0, gt=0, le=1000, description="Factor s on the change; alpha / m of LoRA.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the first train while training.")
    train_norms: bool = Field(True, description="Also train every normalisation layer of the base.")


class Train(nn.Module):
    """A matrix (M, N) as a tensor train whose first `split` cores make up M."""

    def __init__(self, left: Sequence[int], right: Sequence[int], bond: int, last_zero: bool, gen: torch.Generator) -> None:
        super().__init__()
        self.split, shapes = len(left), core_shapes(left, right, bond)
        spread = (math.prod(left) + math.prod(right)) ** (-0.5 / len(shapes))
        drawn = [torch.randn(shape, generator=gen) * spread / math.sqrt(shape[2]) for shape in shapes]
        drawn[-1] *= not last_zero
        self.cores = nn.ParameterList(drawn)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., M) -> x TT (..., N), through the (M, p) and (p, N) matrices that the two sides multiply to."""
        cores = list(self.cores)
        return (x @ _joined(cores[: self.split])[0]) @ _joined(cores[self.split :])[..., 0]


class AdapterFormPart(ActivationPart):
    """A bottleneck adapter of two trains."""

    def __init__(self, cfg: LoRETTAConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor | None) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.down = Train(factors(site.d_out), cfg.inner, cfg.bond, False, gen)
        self.up = Train(cfg.inner[::-1], factors(site.d_out)[::-1], cfg.bond, True, gen)
        self.b_down, self.b_up = nn.Parameter(torch.zeros(math.prod(cfg.inner))), nn.Parameter(torch.zeros(site.d_out))

    def edit(self, h: Tensor, x: Tensor, ctx: Context) -> Tensor:
        low = self.down(nn.functional.dropout(h, self.cfg.dropout, self.training)) + self.b_down
        return h + self.cfg.scale * (self.up(torch.relu(low)) + self.b_up)


class WeightFormPart(WeightPart):
    """LoRA of two trains."""

    reads_weight = False

    def __init__(self, cfg: LoRETTAConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.A = Train(factors(site.d_in), cfg.inner, cfg.bond, False, gen)
        self.B = Train(cfg.inner[::-1], factors(site.d_out)[::-1], cfg.bond, True, gen)

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        return self.cfg.scale * self.B(self.A(torch.eye(self.site.d_in, device=weight.device))).t()

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        return self.cfg.scale * self.B(self.A(nn.functional.dropout(x, self.cfg.dropout, self.training)))


class LoRETTA(Composite):
    """See the module's docstring."""

    Config, tiny = LoRETTAConfig, LoRETTAConfig(inner=(4, 2), bond=3)
    paper = Paper("Yang et al., 2024", "https://arxiv.org/abs/2402.11417", 56)
    default_lr = (5e-3, MEASURED)
    not_mergeable = "the adapter form's non-linearity makes no single weight equal the adapted module"
    presets = {
        "loretta_rep": Preset({"form": "weight", "inner": (8,), "scale": 2.0}, "LoRA of two trains.", None, (2e-2, MEASURED)),
    }

    @classmethod
    def parts(cls, cfg: LoRETTAConfig) -> list[Slot]:
        return [Slot(AdapterFormPart if cfg.form == "adapter" else WeightFormPart, WHERE[cfg.form])]

    @classmethod
    def also_trains(cls, cfg: LoRETTAConfig) -> tuple[str, ...]:
        return ("norms",) if cfg.train_norms else ()

    @classmethod
    def mergeable(cls, cfg: LoRETTAConfig) -> bool:
        return cfg.form == "weight"

    @staticmethod
    def n_params(cfg: LoRETTAConfig, sites: list[Site]) -> int:
        adapter, total = cfg.form == "adapter", 0
        for s in sites:  # the second train mirrors one of (d_out, m), so it has as many numbers
            sides = (factors(s.d_out if adapter else s.d_in), factors(s.d_out))
            total += sum(math.prod(shape) for side in sides for shape in core_shapes(side, cfg.inner, cfg.bond))
            total += adapter * (math.prod(cfg.inner) + s.d_out)
        return total


def _joined(cores: list[Tensor]) -> Tensor:
    """The cores multiplied along their bonds: (p of the first, product of the k's, p of the last)."""
    return functools.reduce(lambda found, core: (found @ core.flatten(1)).unflatten(-1, core.shape[1:]).flatten(1, 2), cores)


def core_shapes(left: Sequence[int], right: Sequence[int], bond: int) -> list[tuple[int, int, int]]:
    """Shapes (p, k, p) of the cores."""
    k = [*left, *right]
    p = [1, *[bond] * (len(k) - 1), 1]
    return [(p[i], k[i], p[i + 1]) for i in range(len(k))]


def factors(width: int) -> list[int]:
    """Balanced factors of a width, each at most 16 where its primes allow it; a prime stays whole."""
    primes, p = [], 2
    while (rest := width // math.prod(primes)) > 1:
        if rest % p:
            p += 1
        else:
            primes.append(p)
    groups = [1] * next(n for n in range(1, 64) if 16**n >= width)
    for p in reversed(primes):
        groups[groups.index(min(groups))] *= p
    return sorted(g for g in groups if g > 1) or [1]
