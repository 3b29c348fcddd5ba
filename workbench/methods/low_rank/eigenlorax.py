"""EigenLoRAx: only small loadings are trained, in a frozen subspace that earlier adapters share.

    W' = W + B A      A^T = V_A C_A: (d_in, r),  B = V_B C_B: (d_out, r)
    V_A: (d_in, K), V_B: (d_out, K) frozen, orthonormal columns;  C_A, C_B: (K, r) ~ U(-0.5, 0.5)

The operation `lora_subspace` makes V_A and V_B from saved LoRA adapters (principal directions of their factors), and a run uses
them by `init_from` of its result. Without it both are random, the baseline that the subspace has to beat. As published both
loadings are drawn, so the start is not the base; with `zero_b` C_B starts at zero, and the start is exactly the base. The
input is projected to K numbers before anything that trains, so the backward pass keeps K numbers per token, not d_in.

Parameters per site: 2 K r.

Deviates from the paper: none known; `zero_b` is an addition.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, Placement, Preset, Site
from workbench.kernel.contract import Context, WeightPart


class EigenLoRAxConfig(Placement):
    """Options of EigenLoRAx."""

    rank: int = Field(8, ge=1, le=1024, description="Rank r of the change.")
    components: int = Field(32, ge=1, le=4096, description="Columns K of each frozen basis.")
    zero_b: bool = Field(False, description="Start C_B at zero, so that the start is the base.")


class EigenLoRAx(WeightPart):
    """See the module's docstring."""

    Config, tiny = EigenLoRAxConfig, EigenLoRAxConfig(rank=4, components=16)
    roles = ("attn.q", "attn.v")
    paper = Paper("Kaushik et al., 2025", "https://arxiv.org/abs/2502.04700", 92)
    default_lr = (5e-3, "the upper of the paper's 4e-3 to 5e-3")
    presets = {"eigenlorax_from_base": Preset({"zero_b": True}, "EigenLoRAx that starts exactly at the base.")}
    identity_at_init = False
    reads_weight = False

    def __init__(self, cfg: EigenLoRAxConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.V_A, self.V_B = (nn.Buffer(orthonormal(d, cfg.components, gen)) for d in (site.d_in, site.d_out))  # (d, K)
        self.C_A, self.C_B = (nn.Parameter(torch.rand(cfg.components, cfg.rank, generator=gen) - 0.5) for _ in range(2))  # (K, r)
        if cfg.zero_b:
            nn.init.zeros_(self.C_B)

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        return (self.V_B @ self.C_B) @ (self.V_A @ self.C_A).t()

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        return (x @ self.V_A @ self.C_A) @ self.C_B.t() @ self.V_B.t()

    @classmethod
    def starts_as_base(cls, cfg: EigenLoRAxConfig) -> bool:
        return cfg.zero_b

    @classmethod
    def problem(cls, cfg: EigenLoRAxConfig, sites: list[Site]) -> str:
        """More columns than a site has dimensions."""
        narrow = min(sites, key=lambda s: min(s.shape))
        if cfg.components <= min(narrow.shape):
            return ""
        return f"components must be at most {min(narrow.shape)}, the narrowest side of {narrow.path}; got {cfg.components}."

    @staticmethod
    def n_params(cfg: EigenLoRAxConfig, sites: list[Site]) -> int:
        return 2 * cfg.components * cfg.rank * len(sites)


def orthonormal(rows: int, columns: int, gen: torch.Generator, beside: Tensor | None = None) -> Tensor:
    """Random orthonormal columns (rows, columns); with `beside` (rows, n), orthogonal to those orthonormal columns too."""
    drawn = torch.randn(rows, columns, generator=gen)
    if beside is not None:
        for _ in range(2):  # once leaves rounding errors behind
            drawn = drawn - beside @ (beside.t() @ drawn)
    return torch.linalg.qr(drawn).Q
