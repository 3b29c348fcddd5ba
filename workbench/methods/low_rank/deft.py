"""DEFT: a low-dimensional part of the weight is projected out and replaced by a trained one.

    W' = W - P Q^T W + P R      P: (d_out, r) ~ N(0, 0.02^2),  R: (r, d_in) = Q^T W at the start
    Q = relu(P), or P and Q both the orthonormal basis of P's columns with `projection: qr`

What the columns of P span is taken away from W and R is written there instead. R starts as exactly what is taken away, so
the start is the base. The change has rank r at most.

Parameters per site: r (d_in + d_out).
"""

from typing import Any, Literal

from pydantic import Field

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class DEFTConfig(Placement):
    """Options of DEFT."""

    rank: int = Field(8, ge=1, le=1024, description="Columns r of P.")
    projection: Literal["relu", "qr"] = Field(
        "relu", description="How Q comes from P: its positive part, or its orthonormal basis."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of R while training.")


class DEFT(Bridged):
    """See the module's docstring."""

    Config, tiny = DEFTConfig, DEFTConfig(rank=4)
    peft_type, kinds = "DEFT", ("linear", "conv1d")
    roles = ("attn.q", "attn.v")
    paper = Paper("Kumar et al., 2025", "https://github.com/MAXNORM8650/DEFT")
    default_lr = (2e-3, "as LoRA's: R plays the part of A, P that of B")

    @classmethod
    def peft_config(cls, cfg: DEFTConfig, sites: list[Site]) -> dict[str, Any]:
        return {"r": cfg.rank, "decomposition_method": cfg.projection, "deft_dropout": cfg.dropout}

    @classmethod
    def misfit(cls, cfg: DEFTConfig, site: Site) -> str:
        return f"an output of at least rank = {cfg.rank}" if site.d_out < cfg.rank else ""

    @staticmethod
    def n_params(cfg: DEFTConfig, sites: list[Site]) -> int:
        return sum(cfg.rank * (s.d_in + s.d_out) for s in sites)
