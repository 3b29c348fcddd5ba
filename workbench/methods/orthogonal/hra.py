"""HRA: the input of a weight is reflected at a chain of trained hyperplanes.

    W' = W H_1 ... H_r,   H_i = I - 2 u_i u_i^T / |u_i|^2      u_i: (d_in,);  u_1 = u_2, u_3 = u_4, ... at the start

Reflections in equal pairs cancel, so the start is the base to rounding. The product is exactly orthogonal, and differs from
the identity by a matrix of rank at most r: between OFT and LoRA.

Parameters per site: r d_in.
"""

from typing import Any

from pydantic import Field

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class HRAConfig(Placement):
    """Options of HRA."""

    rank: int = Field(8, ge=2, le=1024, multiple_of=2, description="Reflections r, an even number.")


class HRA(Bridged):
    """See the module's docstring."""

    Config, tiny = HRAConfig, HRAConfig(rank=4)
    peft_type = "HRA"
    roles = ("attn.q", "attn.v")
    paper = Paper("Yuan et al., 2024", "https://arxiv.org/abs/2405.17484")
    default_lr = (2e-3, "house choice, as LoRA's; the paper sweeps 1e-4 to 1e-2")

    @classmethod
    def peft_config(cls, cfg: HRAConfig, sites: list[Site]) -> dict[str, Any]:
        return {"r": cfg.rank}

    @staticmethod
    def n_params(cfg: HRAConfig, sites: list[Site]) -> int:
        return sum(cfg.rank * s.d_in for s in sites)
