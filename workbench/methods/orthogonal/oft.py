"""OFT: the input of a weight is rotated block by block.

    W' = W R,   R = blockdiag(R_1, ..., R_{d_in/b}),   R_i = (I + Q_i)(I - Q_i)^-1      Q_i: (b, b) skew-symmetric = 0

A rotation keeps the angles between the rows of W, which hold much of what the base knows. Q is given by its entries above the
diagonal. By default the inverse is replaced by its first terms, I + 2 Q + 2 Q^2 + 2 Q^3 + Q^4, which is cheaper, and orthogonal
only to fourth order; `exact: true` solves for it (with -Q for Q).

Parameters per site: d_in (b - 1) / 2.
Deviates from the paper: the original OFT rotates the output; this is its input-side form (OFT v2).
"""

from typing import Any

from pydantic import Field

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class OFTConfig(Placement):
    """Options of OFT."""

    block: int = Field(32, ge=2, le=4096, description="Side b of a block; it must divide the input width of every site.")
    exact: bool = Field(False, description="Solve the Cayley transform exactly instead of by its series.")


class OFT(Bridged):
    """See the module's docstring."""

    Config, tiny = OFTConfig, OFTConfig(block=8)
    peft_type = "OFT"
    roles = ("attn.q", "attn.v")
    paper = Paper("Qiu et al., 2023", "https://arxiv.org/abs/2306.07280")
    default_lr = (2e-3, "house choice, as LoRA's")

    @classmethod
    def peft_config(cls, cfg: OFTConfig, sites: list[Site]) -> dict[str, Any]:
        return {"r": 0, "oft_block_size": cfg.block, "use_cayley_neumann": not cfg.exact}

    @classmethod
    def misfit(cls, cfg: OFTConfig, site: Site) -> str:
        return f"an input that block = {cfg.block} divides" if site.d_in % cfg.block else ""

    @staticmethod
    def n_params(cfg: OFTConfig, sites: list[Site]) -> int:
        return sum(s.d_in * (cfg.block - 1) // 2 for s in sites)
