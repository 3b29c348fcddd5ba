"""Uni-LoRA: every entry of every low-rank factor is an entry of one short vector.

    W' = W + B A,   A[i, j] = theta[p] / sqrt(count(p)),  B alike      theta: (d,) ~ U(-0.02, 0.02);  p: a fixed index per entry

The D entries of all factors of all sites together are assigned to the d entries of theta by a balanced random map, drawn from
a seed: with the scale 1 / sqrt(count) it is an isometry from d to D dimensions. The start is close to the base, not equal.

Parameters per model: d, whatever the number of sites.
"""

from typing import Any

from pydantic import Field

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class UniLoRAConfig(Placement):
    """Options of Uni-LoRA."""

    rank: int = Field(4, ge=1, le=1024, description="Rank r of the change at every site.")
    length: int = Field(4096, ge=1, le=10_000_000, description="Length d of the trained vector.")
    projection_seed: int = Field(42, ge=0, le=2**31 - 1, description="Seed of the map; stored with the adapter.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of A while training.")


class UniLoRA(Bridged):
    """See the module's docstring."""

    Config, tiny = UniLoRAConfig, UniLoRAConfig(rank=4, length=64)
    peft_type, kinds = "UNILORA", ("linear", "conv1d")
    roles = ("attn.q", "attn.v")
    identity_at_init = False
    paper = Paper("Li et al., 2025", "https://arxiv.org/abs/2506.00799")
    default_lr = (1e-2, "house choice above LoRA's: one number moves many entries, each scaled by 1 / sqrt(count)")

    @classmethod
    def peft_config(cls, cfg: UniLoRAConfig, sites: list[Site]) -> dict[str, Any]:
        return {"r": cfg.rank, "theta_d_length": cfg.length, "proj_seed": cfg.projection_seed, "unilora_dropout": cfg.dropout}

    @staticmethod
    def n_params(cfg: UniLoRAConfig, sites: list[Site]) -> int:
        return cfg.length
