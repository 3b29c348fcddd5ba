"""MiSS: one small matrix is shared by all slices of the input.

    y = W x + D^T sum_g x_g      x_g: slice g of x of length r (the last one padded with zeros);  D: (r, d_out) = 0

The change of the weight is D^T repeated along the input until it fills d_in columns: one factor instead of LoRA's two, and
no rule is needed to start it, since zero is a good start.

Parameters per site: r d_out.
"""

from typing import Any

from pydantic import Field

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class MiSSConfig(Placement):
    """Options of MiSS."""

    rank: int = Field(16, ge=1, le=8192, description="Length r of a slice of the input.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the change while training.")


class MiSS(Bridged):
    """See the module's docstring."""

    Config, tiny = MiSSConfig, MiSSConfig(rank=4)
    peft_type = "MISS"
    roles = ("attn.q", "attn.v")
    paper = Paper("Kang and Yin, 2024", "https://arxiv.org/abs/2409.15371")
    default_lr = (1e-3, "house choice below LoRA's: every number acts on d_in / r inputs at once")

    @classmethod
    def peft_config(cls, cfg: MiSSConfig, sites: list[Site]) -> dict[str, Any]:
        return {"r": cfg.rank, "miss_dropout": cfg.dropout}

    @classmethod
    def misfit(cls, cfg: MiSSConfig, site: Site) -> str:
        return f"an input of at least rank = {cfg.rank}" if site.d_in < cfg.rank else ""

    @staticmethod
    def n_params(cfg: MiSSConfig, sites: list[Site]) -> int:
        return sum(cfg.rank * s.d_out for s in sites)
