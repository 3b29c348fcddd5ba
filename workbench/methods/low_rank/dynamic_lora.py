"""Dynamic LoRA: every rank of a LoRA has a weight, and ranks whose weight stays small are removed while training.

    W' = W + B diag(s) A      s = sign(w) max(|w| - kappa, 0)      loss + l1 sum |w|
    A: (r, d_in) ~ U(-1/sqrt(d_in), 1/sqrt(d_in)),  B: (d_out, r) = 0,  w: (r,) ~ U(-10 kappa_max, 10 kappa_max)

The first `dense_ratio` of the steps train with kappa = 0. Then kappa rises linearly to kappa_max, and after each optimizer step
the ranks with |w| <= kappa are removed for good: w is set to zero. The penalty pulls every weight down; ranks that the task
needs withstand it. What is left may differ from site to site; removed ranks cost nothing once merged or cut by `cut_rank`.

Parameters per site: r (d_in + d_out + 1) at most; each removed rank takes d_in + d_out + 1 away.

Deviates from the paper: the threshold acts on w as it is used, and the optimizer goes on from w itself. Written back after every
step it would shrink every weight by kappa per step, so that with a decaying rate the whole adapter goes to zero. The penalty,
which the authors' code leaves out, is on.
"""

import math
from collections.abc import Iterable

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, Placement, Preset, Site
from workbench.kernel.contract import Context, WeightPart


class DynamicLoRAConfig(Placement):
    """Options of dynamic LoRA."""

    rank: int = Field(16, ge=1, le=1024, description="Rank r of every site at the start.")
    kappa_max: float = Field(0.005, gt=0, le=1, description="Threshold of the weights at the end; they start within 10 of it.")
    l1: float = Field(1e-4, ge=0, le=10, description="Factor on the sum of the weights' sizes in the loss.")
    dense_ratio: float = Field(0.5, ge=0, lt=1, description="Share of the steps before the threshold rises from 0.")


class DynamicLoRA(WeightPart):
    """See the module's docstring."""

    Config, tiny = DynamicLoRAConfig, DynamicLoRAConfig(rank=4)
    roles = ("attn.q", "attn.k", "attn.v", "attn.out", "ffn.up", "ffn.down")
    paper = Paper("Lu et al., 2024", "https://arxiv.org/abs/2412.01004")
    default_lr = (1e-2, "best of 2e-3, 5e-3 and 1e-2 on bundled/minilm (validation, 63 steps)")
    presets = {
        "stereo_adapter": Preset(
            {"rank": 16, "kappa_max": 0.005, "l1": 1e-4, "dense_ratio": 0.5},
            "The dynamic LoRA of StereoAdapter: rank 16 on every linear layer of a block.",
            Paper("Wu et al., 2025", "https://arxiv.org/abs/2509.16415", 26),
        ),
    }
    reads_weight = False

    def __init__(self, cfg: DynamicLoRAConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.A = nn.Parameter(
            nn.init.kaiming_uniform_(torch.empty(cfg.rank, site.d_in), a=math.sqrt(5), generator=gen)
        )  # (r, d_in)
        self.B = nn.Parameter(torch.zeros(site.d_out, cfg.rank))  # (d_out, r)
        widest = 10 * cfg.kappa_max
        self.w = nn.Parameter(torch.empty(cfg.rank).uniform_(-widest, widest, generator=gen))  # (r,)
        self.kappa = nn.Buffer(torch.zeros(()))
        self.alive = nn.Buffer(torch.ones(cfg.rank), persistent=False)  # stored, a removed rank is a w of zero

    def weights(self) -> Tensor:
        """The weights s (r,) as they act; zero where a rank is removed."""
        return self.alive * self.w.sign() * (self.w.abs() - self.kappa).clamp(min=0)

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        return (self.B * self.weights()) @ self.A

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        return nn.functional.linear(nn.functional.linear(x, self.A) * self.weights(), self.B)

    def penalty(self) -> Tensor | None:
        return self.cfg.l1 * (self.alive * self.w).abs().sum() if self.cfg.l1 else None

    @torch.no_grad()
    def on_step(self, step: int, steps: int) -> Iterable[nn.Parameter]:
        dense = self.cfg.dense_ratio * steps
        if step > dense:
            self.kappa.fill_(self.cfg.kappa_max * (step - dense) / (steps - dense))
            self.alive.mul_(self.w.abs() > self.kappa)
            self.w.mul_(self.alive)
        return ()

    def in_use(self) -> int:
        return int(self.weights().count_nonzero()) * (self.site.d_in + self.site.d_out + 1)

    @classmethod
    def counts_exactly(cls, cfg: DynamicLoRAConfig) -> bool:
        return False

    @staticmethod
    def n_params(cfg: DynamicLoRAConfig, sites: list[Site]) -> int:
        return sum(cfg.rank * (s.d_in + s.d_out + 1) for s in sites)
