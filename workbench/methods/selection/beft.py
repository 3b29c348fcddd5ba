"""BEFT: only a shift of the value projection's bias is trained.

    y = W x + bias + c      c: (d_out,) = 0

Among the biases of attention those of the value projection matter most when data are few: a shift of the keys cancels in the
softmax, and one of the queries changes little.

Parameters per site: d_out.
"""

from typing import Any

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class BEFTConfig(Placement):
    """Options of BEFT: only where (roles, depths)."""


class BEFT(Bridged):
    """See the module's docstring."""

    Config, tiny = BEFTConfig, BEFTConfig()
    peft_type = "BEFT"
    roles = ("attn.v",)
    paper = Paper("BEFT, 2025", "https://arxiv.org/abs/2509.15974")
    default_lr = (5e-3, "house choice: few numbers carry the change")

    @classmethod
    def peft_config(cls, cfg: BEFTConfig, sites: list[Site]) -> dict[str, Any]:
        return {}

    @classmethod
    def misfit(cls, cfg: BEFTConfig, site: Site) -> str:
        return "" if site.bias else "a bias"

    @staticmethod
    def n_params(cfg: BEFTConfig, sites: list[Site]) -> int:
        return sum(s.d_out for s in sites)
