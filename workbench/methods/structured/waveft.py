"""WaveFT: a few wavelet coefficients of the change are trained.

    W' = W + s idwt2(F)      F: (d_out, d_in), zero but for n places;  F[places] = c,  c: (n,) = 0

idwt2 is one level of the inverse two-dimensional Haar transform; the n places are drawn once from a seed and never stored.
Unlike a Fourier coefficient, a wavelet one touches a 2 x 2 patch only, so the change stays sparse and its rank high.

Parameters per site: n.
"""

from typing import Any

from pydantic import Field

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.bridged import Bridged


class WaveFTConfig(Placement):
    """Options of WaveFT."""

    coefficients: int = Field(2592, ge=1, le=10_000_000, description="Trained coefficients n per site.")
    scale: float = Field(25.0, gt=0, le=10_000, description="Factor s of the change.")
    places_seed: int = Field(777, ge=0, le=2**31 - 1, description="Seed of the trained places; stored with the adapter.")


class WaveFT(Bridged):
    """See the module's docstring."""

    Config, tiny = WaveFTConfig, WaveFTConfig(coefficients=100)
    peft_type, kinds = "WAVEFT", ("linear", "conv1d")
    roles = ("attn.q", "attn.v")
    paper = Paper("Bilican et al., 2025", "https://arxiv.org/abs/2505.12532")
    default_lr = (2e-3, "house choice: one step of Adam moves an entry by about rate times scale / 2")

    @classmethod
    def peft_config(cls, cfg: WaveFTConfig, sites: list[Site]) -> dict[str, Any]:
        places = {"n_frequency": cfg.coefficients, "random_loc_seed": cfg.places_seed}
        return {"scaling": cfg.scale, "wavelet_family": "db1", **places}

    @classmethod
    def misfit(cls, cfg: WaveFTConfig, site: Site) -> str:
        return f"at least coefficients = {cfg.coefficients} entries" if site.d_in * site.d_out < cfg.coefficients else ""

    @staticmethod
    def n_params(cfg: WaveFTConfig, sites: list[Site]) -> int:
        return cfg.coefficients * len(sites)
