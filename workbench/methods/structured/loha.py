"""LoHa: the change is the entrywise product of two low-rank matrices.

    W' = W + (alpha / r) (A1 B1) * (A2 B2)      A1, A2: (d_out, r),  B1, B2: (r, d_in),  B2 = 0, the others uniform

The product of two matrices of rank r can have rank r^2, so the same budget as LoRA of rank 2r reaches a much higher rank.

Parameters per site: 2 r (d_in + d_out).
"""

from typing import Any

from pydantic import Field

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class LoHaConfig(Placement):
    """Options of LoHa."""

    rank: int = Field(8, ge=1, le=1024, description="Rank r of each of the two factors.")
    alpha: float = Field(8.0, gt=0, le=4096, description="Scale: the change is multiplied by alpha / r.")


class LoHa(Bridged):
    """See the module's docstring."""

    Config, tiny = LoHaConfig, LoHaConfig(rank=4, alpha=4.0)
    peft_type = "LOHA"
    roles = ("attn.q", "attn.v")
    paper = Paper("Hyeon-Woo et al., 2021", "https://arxiv.org/abs/2108.06098")
    default_lr = (5e-3, "house choice above LoRA's: a product of two small factors moves slowly")

    @classmethod
    def peft_config(cls, cfg: LoHaConfig, sites: list[Site]) -> dict[str, Any]:
        return {"r": cfg.rank, "alpha": cfg.alpha}

    @staticmethod
    def n_params(cfg: LoHaConfig, sites: list[Site]) -> int:
        return sum(2 * cfg.rank * (s.d_in + s.d_out) for s in sites)
