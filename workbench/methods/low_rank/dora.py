"""DoRA: direction and length of every weight row are trained apart, the direction by a low-rank change.

    W' = diag(m / n) (W + s B A)      n_i = ||(W + s B A)_i||_2 of row i, held constant in the backward pass
    m: (d_out,) = ||W_i||_2           A: (r, d_in) ~ U(-1/sqrt(d_in), 1/sqrt(d_in)),  B: (d_out, r) = 0,  s = alpha / r

A row of W (d_out, d_in) makes one output; the paper writes it as a column. At the start m = n, so the start is exactly
the base. As published (its section 4.3) the norm n gets no gradient. The default places are LoRA's, so that the two
methods differ in the normalisation alone; the paper adapts attn.q, attn.k, attn.v, ffn.up and ffn.down.

Parameters per site: r (d_in + d_out) + d_out.

Deviates from the paper: dropout acts on the input of A only, never on the input of the frozen weight (peft drops both).
"""

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, PeftTwin, Placement, Site
from workbench.kernel.contract import Context, WeightPart


class DoRAConfig(Placement):
    """Options of DoRA."""

    rank: int = Field(8, ge=1, le=1024, description="Rank r of the change of direction.")
    alpha: float = Field(16.0, gt=0, le=4096, description="Scale: the low-rank change is multiplied by alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of A while training.")


class DoRA(WeightPart):
    """See the module's docstring."""

    Config, tiny = DoRAConfig, DoRAConfig(rank=4)
    roles = ("attn.q", "attn.v")
    paper = Paper("Liu et al., 2024", "https://arxiv.org/abs/2402.09353")
    default_lr = (1e-2, "the rate of lora here, whose places and scale it shares; the paper's 1e-4 to 2e-4 suits 7 B parameters")
    peft = PeftTwin(
        "LORA",
        lambda cfg, sites: {"r": cfg.rank, "lora_alpha": cfg.alpha, "lora_dropout": cfg.dropout, "use_dora": True},
        {"A": "lora_A.weight", "B": "lora_B.weight", "magnitude": "lora_magnitude_vector"},
    )
    reads_output = True

    def __init__(self, cfg: DoRAConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.A = nn.Parameter(
            nn.init.kaiming_uniform_(torch.empty(cfg.rank, site.d_in), a=math.sqrt(5), generator=gen)
        )  # (r, d_in)
        self.B = nn.Parameter(torch.zeros(site.d_out, cfg.rank))  # (d_out, r)
        self.scale = cfg.alpha / cfg.rank
        self.magnitude = nn.Parameter(self._row_norms(weight))  # (d_out,)

    def _row_norms(self, weight: Tensor) -> Tensor:
        """||(W + s B A)_i|| of every row (d_out,), without gradient."""
        with torch.no_grad():
            norms = torch.linalg.vector_norm(torch.addmm(weight, self.B, self.A, alpha=self.scale), dim=1)
        return norms.clamp_min(torch.finfo(norms.dtype).tiny)  # a row of zeros stays a row of zeros, not NaN

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        ratio = (self.magnitude / self._row_norms(weight))[:, None]
        return (ratio - 1) * weight + ratio * self.scale * (self.B @ self.A)

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        ratio = self.magnitude / self._row_norms(weight)
        low = nn.functional.linear(nn.functional.dropout(x, self.cfg.dropout, self.training), self.A)
        return (ratio - 1) * y + ratio * self.scale * nn.functional.linear(low, self.B)

    @staticmethod
    def n_params(cfg: DoRAConfig, sites: list[Site]) -> int:
        return sum(cfg.rank * (s.d_in + s.d_out) + s.d_out for s in sites)
