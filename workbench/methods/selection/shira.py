"""SHiRA: a fixed random few entries of the weight are trained.

    W'[places] = W[places] + c      c: (r (d_in + d_out),) = 0;  the places are drawn once from a seed

As many entries as LoRA of rank r would have parameters. The change is sparse and of high rank, so adapters can be exchanged by
writing few entries, and several interfere little.

Parameters per site: r (d_in + d_out).
"""

from typing import Any

from pydantic import Field

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class SHiRAConfig(Placement):
    """Options of SHiRA."""

    rank: int = Field(8, ge=1, le=1024, description="LoRA rank r whose parameter count is matched.")
    places_seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of the trained places; stored with the adapter.")


class SHiRA(Bridged):
    """See the module's docstring."""

    Config, tiny = SHiRAConfig, SHiRAConfig(rank=2)
    peft_type = "SHIRA"
    roles = ("attn.q", "attn.v")
    paper = Paper("Bhardwaj et al., 2024", "https://arxiv.org/abs/2406.13175")
    default_lr = (2e-3, "house choice, as LoRA's")

    @classmethod
    def peft_config(cls, cfg: SHiRAConfig, sites: list[Site]) -> dict[str, Any]:
        return {"r": cfg.rank, "random_seed": cfg.places_seed}

    @classmethod
    def misfit(cls, cfg: SHiRAConfig, site: Site) -> str:
        wanted = cfg.rank * (site.d_in + site.d_out)
        return f"{wanted} entries for rank = {cfg.rank}" if wanted > site.d_in * site.d_out else ""

    @staticmethod
    def n_params(cfg: SHiRAConfig, sites: list[Site]) -> int:
        return sum(cfg.rank * (s.d_in + s.d_out) for s in sites)
