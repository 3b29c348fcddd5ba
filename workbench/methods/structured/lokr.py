"""LoKr: the change is a Kronecker product of a small matrix and a low-rank one.

    W' = W + (alpha / r) C (x) (A B)      C: (p_out, p_in) = 0,  A: (q_out, r),  B: (r, q_in),  p q = d

Each width d is split into p q with p the largest divisor up to sqrt(d). Where the second factor is no larger than twice r
it is a full matrix D: (q_out, q_in) instead of A B. The rank of a Kronecker product is the product of the ranks, so a handful
of numbers gives a change of high rank with a repeating structure.

Parameters per site: p_out p_in + r (q_out + q_in), or p_out p_in + q_out q_in where r >= max(q_out, q_in) / 2.
"""

import math
from typing import Any

from pydantic import Field

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class LoKrConfig(Placement):
    """Options of LoKr."""

    rank: int = Field(8, ge=1, le=1024, description="Rank r of the second factor.")
    alpha: float = Field(8.0, gt=0, le=4096, description="Scale: the change is multiplied by alpha / r.")


def split(width: int) -> tuple[int, int]:
    """(p, q) with p q = width and p the largest divisor of width up to its square root."""
    p = next(n for n in range(math.isqrt(width), 0, -1) if width % n == 0)
    return p, width // p


class LoKr(Bridged):
    """See the module's docstring."""

    Config, tiny = LoKrConfig, LoKrConfig(rank=2, alpha=2.0)
    peft_type = "LOKR"
    roles = ("attn.q", "attn.v")
    paper = Paper("Yeh et al., 2023", "https://arxiv.org/abs/2309.14859")
    default_lr = (5e-3, "house choice above LoRA's: far fewer numbers carry the change")

    @classmethod
    def peft_config(cls, cfg: LoKrConfig, sites: list[Site]) -> dict[str, Any]:
        return {"r": cfg.rank, "alpha": cfg.alpha}

    @staticmethod
    def n_params(cfg: LoKrConfig, sites: list[Site]) -> int:
        total = 0
        for site in sites:
            (p_out, q_out), (p_in, q_in) = split(site.d_out), split(site.d_in)
            full = cfg.rank >= max(q_out, q_in) / 2
            total += p_out * p_in + (q_out * q_in if full else cfg.rank * (q_out + q_in))
        return total
