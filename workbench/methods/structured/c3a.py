"""C3A: the change is a grid of circulant blocks, applied by fast Fourier transform.

    W' = W + (1 / d_in) [ C_ij ]      C_ij: (b, b) circulant, column k is c_ij shifted by k;  c_ij: (b,)
    c ~ U(-sqrt(6 / (d_in + d_out)), sqrt(6 / (d_in + d_out)))

A circulant block of b^2 entries is given by b numbers and almost surely has full rank. The start is not the base; with 1/d_in
the change is small.

Parameters per site: d_in d_out / b.
"""

from typing import Any

from pydantic import Field

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class C3AConfig(Placement):
    """Options of C3A."""

    block: int = Field(64, ge=1, le=8192, description="Side b of a block; it must divide both widths of every site.")


class C3A(Bridged):
    """See the module's docstring."""

    Config, tiny = C3AConfig, C3AConfig(block=8)
    peft_type = "C3A"
    roles = ("attn.q", "attn.v")
    identity_at_init = False
    paper = Paper("Chen et al., 2024", "https://arxiv.org/abs/2407.19342")
    default_lr = (1e-1, "house choice: the kernel is divided by d_in, so it must move d_in times as far")

    @classmethod
    def peft_config(cls, cfg: C3AConfig, sites: list[Site]) -> dict[str, Any]:
        return {"block_size": cfg.block}

    @classmethod
    def misfit(cls, cfg: C3AConfig, site: Site) -> str:
        return f"widths that block = {cfg.block} divides" if site.d_in % cfg.block or site.d_out % cfg.block else ""

    @staticmethod
    def n_params(cfg: C3AConfig, sites: list[Site]) -> int:
        return sum(s.d_in * s.d_out // cfg.block for s in sites)
