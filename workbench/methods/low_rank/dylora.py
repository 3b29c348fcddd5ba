"""DyLoRA: one LoRA is trained to work at every rank up to r, so that the rank is chosen after training.

    W' = W + (alpha / b) B_b A_b      A_b: the first b rows of A,  B_b: the first b columns of B
    A: (r, d_in) ~ U(-1/sqrt(d_in), 1/sqrt(d_in)),  B: (d_out, r) = 0      b ~ p,  p(b) prop. to (1 - stop)^(b - 1)

Every optimizer step draws one rank b of 1..r, the same for all sites, and computes the loss of the adapter cut to b. What is
useful thus gathers in the first ranks. `update: all` moves the first b rows of A and columns of B; `update: frozen` moves row and
column b alone and holds those before constant, which is cheaper, but then each rank learns in few of the steps. Outside training
b is `evaluate_at`, r if empty. The operation `cut_rank` makes an ordinary LoRA of any b. The draw of a step follows from the
run's seed and the step's number alone.

Parameters per site: r (d_in + d_out); cut to rank b: b (d_in + d_out).

Deviates from the paper: the first three steps share one draw, because A can only move behind a column of B that has moved;
optimizer moments may still move, a little, ranks that a step did not draw.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, Placement, Preset, Site
from workbench.kernel.contract import Context, WeightPart

SHARED_STEPS = 3
"""The first steps of a training, which all use the first draw."""


class DyLoRAConfig(Placement):
    """Options of DyLoRA."""

    rank: int = Field(8, ge=1, le=1024, description="Largest rank r; every smaller one is trained too.")
    alpha: float = Field(16.0, gt=0, le=4096, description="Scale: the change cut to rank b is multiplied by alpha / b.")
    update: Literal["all", "frozen"] = Field("all", description="Move all of the first b ranks, or the last of them alone.")
    stop: float = Field(0.0, ge=0, lt=1, description="Chance to stop at each rank (geometric draw); 0 draws all ranks alike.")
    evaluate_at: int | None = Field(None, ge=1, le=1024, description="Rank b outside training; empty means the largest.")


class Draw(nn.Module):
    """The rank of the current step, shared by all sites."""

    def __init__(self, cfg: DyLoRAConfig, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.chances = (1 - cfg.stop) ** torch.arange(cfg.rank, dtype=torch.float64)  # (r,), not normalised
        self.step, self.rank = 0, self.drawn(SHARED_STEPS)

    def drawn(self, step: int) -> int:
        """The rank of optimizer step `step` (from 1)."""
        gen = torch.Generator().manual_seed(self.seed + max(step, SHARED_STEPS))
        return 1 + int(torch.multinomial(self.chances, 1, generator=gen))

    def after(self, step: int) -> None:
        """Draw for the step that follows `step`; every site calls this, the first one counts."""
        if step != self.step:
            self.step, self.rank = step, self.drawn(step + 1)


class DyLoRA(WeightPart):
    """See the module's docstring."""

    Config, tiny = DyLoRAConfig, DyLoRAConfig(rank=4)
    roles = ("attn.q", "attn.v")
    paper = Paper("Valipour et al., 2022", "https://arxiv.org/abs/2210.07558", 14)
    default_lr = (5e-3, "best of 2e-3, 5e-3 and 1e-2 on bundled/minilm (validation, 63 steps); the paper: 4e-4 for RoBERTa-base")
    presets = {"dylora_frozen": Preset({"update": "frozen"}, "DyLoRA (Frozen): each step moves the last drawn rank alone.")}
    reads_weight = False
    shared: Draw

    def __init__(self, cfg: DyLoRAConfig, site: Site, shared: Draw, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.A = nn.Parameter(
            nn.init.kaiming_uniform_(torch.empty(cfg.rank, site.d_in), a=math.sqrt(5), generator=gen)
        )  # (r, d_in)
        self.B = nn.Parameter(torch.zeros(site.d_out, cfg.rank))  # (d_out, r)

    def factors(self) -> tuple[Tensor, Tensor, float]:
        """A_b (b, d_in), B_b (d_out, b) and alpha / b, with the gradient that this step's update allows."""
        b = self.shared.rank if self.training else self.cfg.evaluate_at or self.cfg.rank
        A, B = self.A[:b], self.B[:, :b]
        if self.training and self.cfg.update == "frozen":
            A = torch.cat([A[:-1].detach(), A[-1:]])
            B = torch.cat([B[:, :-1].detach(), B[:, -1:]], 1)
        return A, B, self.cfg.alpha / b

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        A, B, scale = self.factors()
        return scale * (B @ A)

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        A, B, scale = self.factors()
        return scale * nn.functional.linear(nn.functional.linear(x, A), B)

    def on_step(self, step: int, steps: int) -> Iterable[nn.Parameter]:
        self.shared.after(step)
        return ()

    def resume(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        self.shared.after(step)

    @classmethod
    def build_shared(cls, cfg: DyLoRAConfig, sites: list[Site], gen: torch.Generator) -> Draw:
        return Draw(cfg, int(torch.randint(2**40, (1,), generator=gen)))

    @classmethod
    def problem(cls, cfg: DyLoRAConfig, sites: list[Site]) -> str:
        """A rank for evaluation that is not there."""
        if cfg.evaluate_at is None or cfg.evaluate_at <= cfg.rank:
            return ""
        return f"evaluate_at must be at most rank = {cfg.rank}; got {cfg.evaluate_at}."

    @staticmethod
    def n_params(cfg: DyLoRAConfig, sites: list[Site]) -> int:
        return sum(cfg.rank * (s.d_in + s.d_out) for s in sites)
