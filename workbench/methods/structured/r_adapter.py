"""R-Adapter: a linear residual map after a layer, dropped at random, averaged over time and shrunk at the end.

    y' = y + (g / (1 - p)) E y      while training, y = W x + b,  g ~ Bernoulli(1 - p) once per site and forward pass
    W' = W + a M W,  b' = b + a M b      afterwards; M <- m M + (1 - m) E after every optimizer step
    full rank: E: (d_out, d_out) = 0      low rank: E = B A,  A: (r, d_out) ~ U(-1/sqrt(d_out), 1/sqrt(d_out)),  B: (d_out, r) = 0

The start is exactly the base. Dropping, averaging and shrinking (a < 1) each make an ensemble of the base and adapted models with
different weights inside one model, which costs nothing at inference: it is for bases that already work and must stay good on
shifted data. The analysis `shrinking` shows quality over a. With low rank, A and B are averaged apart.

Parameters per site: d_out^2, with low rank 2 r d_out. E and its average M are both stored.

Deviates from the paper: the first steps average over a shorter time, m = min(ema, (1 + t) / (10 + t)) at step t, or short
trainings would end at the base; the first three steps drop nothing. a is 1 by default, for a head that is trained with the whole
adapter; the paper's 0.5 is for a frozen zero-shot head. Its loss for image-text pairs (MPM-NCE) is not part of the method.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, Placement, Preset, Site
from workbench.kernel.contract import Context, WeightPart

UNDROPPED_STEPS = 3
"""The first steps of a training, which drop nothing, so that every tensor is seen to move."""


class RAdapterConfig(Placement):
    """Options of R-Adapter."""

    rank: int | None = Field(None, ge=1, le=1024, description="Rank r of the map; empty means full rank.")
    drop: float = Field(0.2, ge=0, lt=1, description="Chance p that a site's adapter is left out of a training pass.")
    ema: float = Field(0.999, ge=0, lt=1, description="Momentum m of the average over steps; 0 keeps the last step alone.")
    rescale: float = Field(1.0, ge=0, le=1, description="Factor a on the averaged map; 0 is the base, the paper has 0.5.")


class RAdapter(WeightPart):
    """See the module's docstring."""

    Config, tiny = RAdapterConfig, RAdapterConfig()
    roles = ("attn.out", "ffn.down")
    paper = Paper("Kim et al., 2024", "https://arxiv.org/abs/2408.05749", 87)
    default_lr = (2e-3, "best of 5e-4, 2e-3 and 5e-3 on bundled/minilm (validation, 63 steps); the paper: 5e-4 for CLIP")
    presets = {
        "r_adapter_low_rank": Preset(
            {"rank": 8},
            "R-Adapter of low rank, the paper's form for few rows.",
            default_lr=(1e-2, "best of 2e-3, 5e-3 and 1e-2 on bundled/minilm (validation, 63 steps)"),
        )
    }
    reads_output = True
    reads_weight = False

    def __init__(self, cfg: RAdapterConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        d = site.d_out
        if cfg.rank is None:
            self.E = nn.Parameter(torch.zeros(d, d))
        else:
            self.A = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(cfg.rank, d), a=math.sqrt(5), generator=gen))  # (r, d_out)
            self.B = nn.Parameter(torch.zeros(d, cfg.rank))  # (d_out, r)
        self.names = ("E",) if cfg.rank is None else ("A", "B")  # applied in this order
        for name in self.names:
            self.register_buffer(f"mean_{name}", getattr(self, name).detach().clone())
        self.averaged = nn.Buffer(torch.zeros(()))  # 1 once the averages have begun
        self.steps, self.gate = 0, 1.0

    def maps(self) -> list[Tensor]:
        """The matrices that act now, first one first: what trains, outside training its average."""
        trained = [getattr(self, name) for name in self.names]
        if self.training:
            return trained
        means = [getattr(self, f"mean_{name}") for name in self.names]
        return [torch.where(self.averaged > 0, mean, own) for mean, own in zip(means, trained, strict=True)]

    def _mapped(self, y: Tensor) -> Tensor:
        """E y for y (..., d_out), outside training a M y."""
        for matrix in self.maps():
            y = nn.functional.linear(y, matrix)
        return y if self.training else self.cfg.rescale * y

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        return self._mapped(weight.t()).t()

    def apply_to(self, y: Tensor, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        self.gate = self._drawn()
        return self.gate * self._mapped(y)

    def delta_bias(self, bias: Tensor, weight: Tensor | None, ctx: Context) -> Tensor:
        gate, self.gate = self.gate, 1.0  # the bias is dropped with the output of its own pass; a merge drops nothing
        return gate * self._mapped(bias)

    def _drawn(self) -> float:
        """g / (1 - p) of this pass."""
        if not self.training or self.steps < UNDROPPED_STEPS:
            return 1.0
        return float(torch.rand(()) >= self.cfg.drop) / (1 - self.cfg.drop)

    @torch.no_grad()
    def on_step(self, step: int, steps: int) -> Iterable[nn.Parameter]:
        momentum = min(self.cfg.ema, (1 + step) / (10 + step))
        for name in self.names:
            getattr(self, f"mean_{name}").lerp_(getattr(self, name), 1 - momentum)
        self.averaged.fill_(1.0)
        self.steps = step
        return ()

    def resume(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        self.steps = step

    @staticmethod
    def n_params(cfg: RAdapterConfig, sites: list[Site]) -> int:
        return sum(s.d_out**2 if cfg.rank is None else 2 * cfg.rank * s.d_out for s in sites)
