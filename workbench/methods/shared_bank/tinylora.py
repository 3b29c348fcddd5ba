"""TinyLoRA: a handful of numbers steer the base's own largest singular directions.

    W' = W + U sqrt(S) (sum_i v_i P_i) sqrt(S) V^T      v: (u,) = 0 trained;  P_i: (r, r) ~ N(0, 1/r) frozen

U S V^T is the truncated singular value decomposition of W of rank r; it and P are stored with the adapter. With `tying` > 0
neighbouring sites share their v, down to one v for the whole model at `tying` = 1.

Parameters per site: u; with tying, u per group of sites.
"""

from typing import Any

from pydantic import Field

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class TinyLoRAConfig(Placement):
    """Options of TinyLoRA."""

    rank: int = Field(2, ge=1, le=256, description="Singular directions r that can be mixed.")
    numbers: int = Field(64, ge=1, le=65536, description="Trained numbers u per group.")
    tying: float = Field(0.0, ge=0, le=1, description="How much is shared: 0 is one group per site, 1 one for all sites.")
    projection_seed: int = Field(42, ge=0, le=2**31 - 1, description="Seed of the frozen matrices P.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the change while training.")


class TinyLoRA(Bridged):
    """See the module's docstring."""

    Config, tiny = TinyLoRAConfig, TinyLoRAConfig(numbers=16, rank=4)
    peft_type, kinds = "TINYLORA", ("linear", "conv1d")
    roles = ("attn.q", "attn.v")
    paper = Paper("Learning to Reason in 13 Parameters, 2026", "https://arxiv.org/abs/2602.04118")
    default_lr = (1e-2, "house choice above LoRA's: very few numbers carry the change")

    @classmethod
    def peft_config(cls, cfg: TinyLoRAConfig, sites: list[Site]) -> dict[str, Any]:
        return {
            "r": cfg.rank,
            "u": cfg.numbers,
            "weight_tying": cfg.tying,
            "projection_seed": cfg.projection_seed,
            "tinylora_dropout": cfg.dropout,
        }

    @staticmethod
    def n_params(cfg: TinyLoRAConfig, sites: list[Site]) -> int:
        count = len(sites)
        groups = max(1, round(count * (1 - cfg.tying)))
        size = max(1, count // groups)  # the last group takes what is left
        return cfg.numbers * min(groups, -(-count // size))
