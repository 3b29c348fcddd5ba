"""FourierFT: a few Fourier coefficients of the change are trained.

    W' = W + s Re(ifft2(F))      F: (d_out, d_in), zero but for n places;  F[places] = c,  c: (n,) ~ N(0, 1)

The n places are drawn once from a seed, the same for all sites of one shape, and never stored. Each coefficient is a wave over
the whole matrix, so very few numbers give a change of high rank. The start is not the base: c is random, and its change has
entries of about s sqrt(n / 2) / (d_in d_out). The paper's s = 150 is for layers 768 wide or wider; on narrow ones it starts far
from the base (`bundled/lm`, 160 wide, one pass: test loss 5.67 with 150, 4.44 with 10, both over two seeds).

Parameters per site: n.
"""

from typing import Any

from pydantic import Field

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class FourierFTConfig(Placement):
    """Options of FourierFT."""

    coefficients: int = Field(1000, ge=1, le=10_000_000, description="Trained coefficients n per site.")
    scale: float = Field(150.0, gt=0, le=10_000, description="Factor s of the change; narrow layers need less.")
    places_seed: int = Field(777, ge=0, le=2**31 - 1, description="Seed of the trained places; stored with the adapter.")


class FourierFT(Bridged):
    """See the module's docstring."""

    Config, tiny = FourierFTConfig, FourierFTConfig(coefficients=20)
    peft_type, kinds = "FOURIERFT", ("linear", "conv1d")
    roles = ("attn.q", "attn.v")
    identity_at_init = False
    paper = Paper("Gao et al., 2024", "https://arxiv.org/abs/2405.03003")
    default_lr = (5e-2, "the paper's order of magnitude on GLUE (1e-2 to 1e-1)")

    @classmethod
    def peft_config(cls, cfg: FourierFTConfig, sites: list[Site]) -> dict[str, Any]:
        return {"n_frequency": cfg.coefficients, "scaling": cfg.scale, "random_loc_seed": cfg.places_seed}

    @classmethod
    def misfit(cls, cfg: FourierFTConfig, site: Site) -> str:
        return f"at least coefficients = {cfg.coefficients} entries" if site.d_in * site.d_out < cfg.coefficients else ""

    @staticmethod
    def n_params(cfg: FourierFTConfig, sites: list[Site]) -> int:
        return cfg.coefficients * len(sites)
