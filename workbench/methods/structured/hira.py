"""HiRA: a low-rank matrix multiplies the weight entry by entry.

    W' = W + W * (B A)      A: (r, d_in) ~ U(-1/sqrt(d_in), 1/sqrt(d_in)),  B: (d_out, r) = 0

`*` is the entrywise product. Because W has full rank, so has the change, at LoRA's cost; entries that are near zero in the
base stay near zero.

Parameters per site: r (d_in + d_out).
"""

from typing import Any

from pydantic import Field

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class HiRAConfig(Placement):
    """Options of HiRA."""

    rank: int = Field(16, ge=1, le=1024, description="Rank r of the multiplier.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the change while training.")


class HiRA(Bridged):
    """See the module's docstring."""

    Config, tiny = HiRAConfig, HiRAConfig(rank=4)
    peft_type, kinds = "HIRA", ("linear", "conv1d")
    roles = ("attn.q", "attn.v")
    paper = Paper("Huang et al., 2025", "https://openreview.net/forum?id=TwJrTz9cRS")
    default_lr = (1e-2, "house choice above LoRA's: the change is scaled by the small entries of W")

    @classmethod
    def peft_config(cls, cfg: HiRAConfig, sites: list[Site]) -> dict[str, Any]:
        return {"r": cfg.rank, "hira_dropout": cfg.dropout}

    @staticmethod
    def n_params(cfg: HiRAConfig, sites: list[Site]) -> int:
        return sum(cfg.rank * (s.d_in + s.d_out) for s in sites)
