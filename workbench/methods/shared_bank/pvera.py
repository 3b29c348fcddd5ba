"""PVeRA: VeRA whose inner vector is drawn from a learned normal distribution while training.

    y = W x + diag(b) B z,   z ~ N(mu, diag(exp(v))),   (mu; v) = diag(d) A x
    A: (2r, max d_in), B: (max d_out, r) random, frozen, shared;  d: (2r,) = 0.1,  b: (d_out,) = 0

While training z is sampled anew in every pass, which regularises; afterwards z = mu, and the change is VeRA's with the first
half of d and A.

Parameters per site: d_out + 2 r.
"""

from typing import Any

from pydantic import Field

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class PVeRAConfig(Placement):
    """Options of PVeRA."""

    rank: int = Field(256, ge=1, le=4096, description="Rank r of the shared matrices.")
    d_initial: float = Field(0.1, gt=0, le=10, description="Initial value of every entry of d.")
    projection_seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of the shared matrices.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of A while training.")


class PVeRA(Bridged):
    """See the module's docstring."""

    Config, tiny = PVeRAConfig, PVeRAConfig(rank=8)
    peft_type, kinds = "PVERA", ("linear", "conv1d")
    roles = ("attn.q", "attn.v")
    paper = Paper("PVeRA, 2025", "https://arxiv.org/abs/2512.07703")
    default_lr = (1e-2, "as VeRA's")

    @classmethod
    def peft_config(cls, cfg: PVeRAConfig, sites: list[Site]) -> dict[str, Any]:
        seed, dropout = cfg.projection_seed, cfg.dropout
        return {"r": cfg.rank, "d_initial": cfg.d_initial, "projection_prng_key": seed, "pvera_dropout": dropout}

    @staticmethod
    def n_params(cfg: PVeRAConfig, sites: list[Site]) -> int:
        return sum(s.d_out + 2 * cfg.rank for s in sites)
