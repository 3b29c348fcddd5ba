"""RandLoRA: a full-rank change as a sum of frozen random terms with trained scales.

    W' = W + (alpha / r) sum_{k,i} b_ki (l_ki a_k * g_i)^T      k = 1..r,  i = 1..n,  n = ceil(min(d_in, d_out) / r)
    a_k: (min d,), b_ki: (max d,) random, frozen, shared;  l: (r, n) = 0,  g_i: (min d,) = 1 / max(n, min d)

(For d_out < d_in the transpose of this.) r n random terms of rank one fill the whole space, so the change has full rank with few
trained numbers. The vectors are drawn from a seed of their own and stored with the adapter, once.

Parameters per site: n (r + min(d_in, d_out)).

Deviates from the paper: there the n r vectors b form n matrices B_i, and term (k, i) takes column k of B_i; peft counts the
terms k-major and the columns i-major, so term number k n + i takes the column with that number. Which random vectors meet
differs; what the sum can express does not.
"""

from typing import Any

from pydantic import Field

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class RandLoRAConfig(Placement):
    """Options of RandLoRA."""

    rank: int = Field(32, ge=1, le=1024, description="Rank r of one random term; a smaller rank means more terms and parameters.")
    alpha: float = Field(640.0, gt=0, le=100_000, description="Scale: the change is multiplied by alpha / r.")
    projection_seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of the shared matrices.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the change while training.")


class RandLoRA(Bridged):
    """See the module's docstring."""

    Config, tiny = RandLoRAConfig, RandLoRAConfig(rank=8, alpha=16.0)
    peft_type, kinds = "RANDLORA", ("linear", "conv1d")
    roles = ("attn.q", "attn.v")
    paper = Paper("Albert et al., 2025", "https://arxiv.org/abs/2502.00987")
    default_lr = (1e-3, "house choice below LoRA's: alpha / r is 20 here")

    @classmethod
    def peft_config(cls, cfg: RandLoRAConfig, sites: list[Site]) -> dict[str, Any]:
        seed, dropout = cfg.projection_seed, cfg.dropout
        return {"r": cfg.rank, "randlora_alpha": cfg.alpha, "projection_prng_key": seed, "randlora_dropout": dropout}

    @staticmethod
    def n_params(cfg: RandLoRAConfig, sites: list[Site]) -> int:
        return sum(-(-min(s.shape) // cfg.rank) * (cfg.rank + min(s.shape)) for s in sites)
