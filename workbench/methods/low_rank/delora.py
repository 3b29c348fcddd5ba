"""DeLoRA: a low-rank change of bounded strength, whose strength is learned apart from its direction.

    W' = W + (lambda / r) B diag(1 / (|a_i| |b_i|)) A diag(|w_j|)
    A: (r, d_in) ~ U(-1/sqrt(d_in), 1/sqrt(d_in)),  B: (d_out, r) = 0,  lambda: (1,) = strength

a_i is row i of A, b_i column i of B, w_j column j of W; the norms of W are taken once. Each rank-one term has norm one before
the scale, so |W' - W| is bounded by lambda whatever A and B become: training cannot drift far from the base.

Parameters per site: r (d_in + d_out) + 1.
"""

from typing import Any

from pydantic import Field

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class DeLoRAConfig(Placement):
    """Options of DeLoRA."""

    rank: int = Field(8, ge=1, le=1024, description="Rank r of the change.")
    strength: float = Field(15.0, gt=0, le=1000, description="Initial lambda, the bound of the change.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the change while training.")


class DeLoRA(Bridged):
    """See the module's docstring."""

    Config, tiny = DeLoRAConfig, DeLoRAConfig(rank=4)
    peft_type = "DELORA"
    roles = ("attn.q", "attn.v")
    paper = Paper("Bini et al., 2025", "https://arxiv.org/abs/2503.18225")
    default_lr = (5e-3, "house choice between LoRA's and the rates the paper sweeps")

    @classmethod
    def peft_config(cls, cfg: DeLoRAConfig, sites: list[Site]) -> dict[str, Any]:
        return {"r": cfg.rank, "delora_lambda": cfg.strength, "module_dropout": cfg.dropout}

    @staticmethod
    def n_params(cfg: DeLoRAConfig, sites: list[Site]) -> int:
        return sum(cfg.rank * (s.d_in + s.d_out) + 1 for s in sites)
