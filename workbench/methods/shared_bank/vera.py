"""VeRA: all sites share two frozen random matrices, and train only two scaling vectors each.

    W' = W + diag(b) B diag(d) A      A: (r, max d_in), B: (max d_out, r) random, frozen, shared;  d: (r,) = 0.1,  b: (d_out,) = 0

Each site uses the first d_in columns of A and the first d_out rows of B. b starts at zero, so the start is the base. The
matrices are drawn from a seed of their own and stored with the adapter, once.

Parameters per site: d_out + r.
"""

from typing import Any

from pydantic import Field

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class VeRAConfig(Placement):
    """Options of VeRA."""

    rank: int = Field(256, ge=1, le=4096, description="Rank r of the shared matrices.")
    d_initial: float = Field(0.1, gt=0, le=10, description="Initial value of every entry of d.")
    projection_seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of the shared matrices.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of A while training.")


class VeRA(Bridged):
    """See the module's docstring."""

    Config, tiny = VeRAConfig, VeRAConfig(rank=8)
    peft_type, kinds = "VERA", ("linear", "conv1d")
    roles = ("attn.q", "attn.v")
    paper = Paper("Kopiczko et al., 2023", "https://arxiv.org/abs/2310.11454")
    default_lr = (1e-2, "the paper's order of magnitude: about ten times LoRA's")

    @classmethod
    def peft_config(cls, cfg: VeRAConfig, sites: list[Site]) -> dict[str, Any]:
        seed, dropout = cfg.projection_seed, cfg.dropout
        return {"r": cfg.rank, "d_initial": cfg.d_initial, "projection_prng_key": seed, "vera_dropout": dropout}

    @staticmethod
    def n_params(cfg: VeRAConfig, sites: list[Site]) -> int:
        return sum(s.d_out + cfg.rank for s in sites)
