"""GraLoRA: the weight is cut into a grid of blocks, each with a low-rank change of its own.

    block (i, j) of W' = block of W + (alpha / r) B_ij A_ij      A_ij: (r/k, d_in/k),  B_ij: (d_out/k, r/k) = 0
    A ~ U(-1/sqrt(d_in/k), 1/sqrt(d_in/k)),  i, j = 1..k

k x k blocks of rank r/k cost what LoRA of rank r costs, but the whole change can have rank r k, and an input with a few very
large channels disturbs only the blocks that see them.

Parameters per site: r (d_in + d_out).
"""

from typing import Any

from pydantic import Field

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class GraLoRAConfig(Placement):
    """Options of GraLoRA."""

    rank: int = Field(8, ge=1, le=1024, description="Rank r of a row of blocks together; blocks must divide it.")
    blocks: int = Field(2, ge=1, le=64, description="Blocks k along each side of the weight.")
    alpha: float = Field(16.0, gt=0, le=4096, description="Scale: the change is multiplied by alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the change while training.")


class GraLoRA(Bridged):
    """See the module's docstring."""

    Config, tiny = GraLoRAConfig, GraLoRAConfig(rank=4)
    peft_type, kinds = "GRALORA", ("linear", "conv1d")
    roles = ("attn.q", "attn.v")
    paper = Paper("Jung et al., 2025", "https://arxiv.org/abs/2505.20355")
    default_lr = (2e-3, "as LoRA's: the same budget and scale")

    @classmethod
    def peft_config(cls, cfg: GraLoRAConfig, sites: list[Site]) -> dict[str, Any]:
        return {"r": cfg.rank, "gralora_k": cfg.blocks, "alpha": cfg.alpha, "gralora_dropout": cfg.dropout}

    @classmethod
    def problem(cls, cfg: GraLoRAConfig, sites: list[Site]) -> str:
        if cfg.rank % cfg.blocks:
            return f"gralora needs a rank that blocks divides; got rank {cfg.rank} and blocks {cfg.blocks}."
        return super().problem(cfg, sites)

    @classmethod
    def misfit(cls, cfg: GraLoRAConfig, site: Site) -> str:
        return f"widths that blocks = {cfg.blocks} divides" if site.d_in % cfg.blocks or site.d_out % cfg.blocks else ""

    @staticmethod
    def n_params(cfg: GraLoRAConfig, sites: list[Site]) -> int:
        return sum(cfg.rank * (s.d_in + s.d_out) for s in sites)
