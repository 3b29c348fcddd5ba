"""LoRA: a trained low-rank matrix is added to a frozen weight.

    W' = W + s B A      A: (r, d_in) ~ U(-1/sqrt(d_in), 1/sqrt(d_in)),  B: (d_out, r) = 0,  s = alpha / r

B starts at zero, so the start is exactly the base. rsLoRA divides by sqrt(r) instead of r, which keeps the size of the
change independent of r; LoRA+ trains B at a higher rate than A.

Parameters per site: r (d_in + d_out).
"""

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, PeftTwin, Placement, Preset, Site
from workbench.kernel.contract import Context, WeightPart


class LoRAConfig(Placement):
    """Options of LoRA."""

    rank: int = Field(8, ge=1, le=1024, description="Rank r of the change.")
    alpha: float = Field(16.0, gt=0, le=4096, description="Scale: the change is multiplied by alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of A while training.")
    rank_stabilised: bool = Field(False, description="Divide alpha by sqrt(r) instead of r (rsLoRA).")
    b_rate: float = Field(1.0, gt=0, le=1000, description="Learning rate of B as a multiple of A's (LoRA+).")


class LoRA(WeightPart):
    """See the module's docstring."""

    Config, tiny = LoRAConfig, LoRAConfig(rank=4)
    roles = ("attn.q", "attn.v")
    paper = Paper("Hu et al., 2021", "https://arxiv.org/abs/2106.09685")
    default_lr = (
        1e-2,
        "best of 5e-3, 1e-2 and 2e-2 on bundled/minilm and bundled/vit, near it on bundled/lm; the paper: 2e-4 to 5e-4",
    )
    presets = {
        "rslora": Preset(
            {"rank_stabilised": True},
            "rsLoRA: the scale falls with the square root of the rank.",
            Paper("Kalajdzievski, 2023", "https://arxiv.org/abs/2312.03732"),
            (3e-3, "a third of LoRA's: at rank 8 its scale is 2.8 times as large"),
        ),
        "lora_plus": Preset(
            {"b_rate": 16.0},
            "LoRA+: B learns 16 times faster than A.",
            Paper("Hayou et al., 2024", "https://arxiv.org/abs/2402.12354"),
            (5e-4, "so that B, at 16 times this, moves about as fast as LoRA's"),
        ),
    }
    peft = PeftTwin(
        "LORA",
        lambda cfg, sites: {
            "r": cfg.rank,
            "lora_alpha": cfg.alpha,
            "lora_dropout": cfg.dropout,
            "use_rslora": cfg.rank_stabilised,
        },
        {"A": "lora_A.weight", "B": "lora_B.weight"},
    )
    reads_weight = False

    def __init__(self, cfg: LoRAConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.A = nn.Parameter(
            nn.init.kaiming_uniform_(torch.empty(cfg.rank, site.d_in), a=math.sqrt(5), generator=gen)
        )  # (r, d_in)
        self.B = nn.Parameter(torch.zeros(site.d_out, cfg.rank))  # (d_out, r)
        self.scale = cfg.alpha / (math.sqrt(cfg.rank) if cfg.rank_stabilised else cfg.rank)

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        return self.scale * (self.B @ self.A)

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        x = nn.functional.dropout(x, self.cfg.dropout, self.training)
        return self.scale * nn.functional.linear(nn.functional.linear(x, self.A), self.B)

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        return [{"params": [self.A], "lr": lr}, {"params": [self.B], "lr": lr * self.cfg.b_rate}]

    @staticmethod
    def n_params(cfg: LoRAConfig, sites: list[Site]) -> int:
        return sum(cfg.rank * (s.d_in + s.d_out) for s in sites)
