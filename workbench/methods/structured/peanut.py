"""PEANuT: a small network computes the change from the frozen weight itself.

    W' = W + s (f(W^T))^T,   f(Z) = g(Z A^T) B^T      A: (r, d_out) uniform,  B: (d_out, r) = 0,  g: a nonlinearity

f works on every column of W alone. With `depth` > 0, pairs of r x r layers with g after each and a skip around the pair lie
between A and B. The change therefore depends on what is already there, not only on where.

Parameters per site: 2 r d_out + 2 depth r^2.
"""

from typing import Any, Literal

from pydantic import Field

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class PEANuTConfig(Placement):
    """Options of PEANuT."""

    rank: int = Field(16, ge=1, le=1024, description="Width r inside the network.")
    depth: int = Field(0, ge=0, le=8, description="Pairs of inner layers.")
    nonlinearity: Literal["relu", "gelu", "silu", "tanh"] = Field("relu", description="The function g.")
    scale: float = Field(1.0, gt=0, le=100, description="Factor s of the change.")


class PEANuT(Bridged):
    """See the module's docstring."""

    Config, tiny = PEANuTConfig, PEANuTConfig(rank=8)
    peft_type = "PEANUT"
    roles = ("attn.q", "attn.v")
    paper = Paper("Zhong et al., 2024", "https://arxiv.org/abs/2410.01870")
    default_lr = (5e-3, "house choice above LoRA's: the change is scaled by the small entries of W")

    @classmethod
    def peft_config(cls, cfg: PEANuTConfig, sites: list[Site]) -> dict[str, Any]:
        return {"r": cfg.rank, "depth": cfg.depth, "act_fn": cfg.nonlinearity, "scaling": cfg.scale}

    @staticmethod
    def n_params(cfg: PEANuTConfig, sites: list[Site]) -> int:
        return sum(2 * cfg.rank * s.d_out + 2 * cfg.depth * cfg.rank**2 for s in sites)
