"""ABBA: the change is the entrywise product of two low-rank matrices, one of them started from the weight itself.

    W' = W + s (B1 A1) * (B2 A2)      B1, B2: (d_out, r1), (d_out, r2),  A1, A2: (r1, d_in), (r2, d_in)
    B1 A1 = U S V^T, the best rank-r1 part of W:  B1 = U sqrt(S),  A1 = sqrt(S) V^T
    A2 ~ U(-1/sqrt(d_in), 1/sqrt(d_in)),  B2 = 0
    s (B1 A1) * (B2 A2) = s B A,   B[i, a r2 + b] = B1[i, a] B2[i, b],   A[a r2 + b, j] = A1[a, j] A2[b, j]

The product of ranks r1 and r2 can have rank r1 r2, with the parameters of LoRA of rank r1 + r2. The last line (the Khatri-Rao
identity) turns it into one pair of factors of inner width r1 r2, so no (d_out, d_in) matrix is built in training. The start
is exactly the base. The default ranks have the budget of LoRA's default and the default places are LoRA's, so that the two
differ in the form of the change alone; the paper adapts every linear layer of the blocks with r1 = r2 = 16.

Parameters per site: (r1 + r2) (d_in + d_out).

Deviates from the paper: the scale is one number s, in the released code sqrt(alpha1) sqrt(alpha2); its text derives another.
"""

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.contract import Context, WeightPart

POWER_ITERATIONS = 10


class ABBAConfig(Placement):
    """Options of ABBA."""

    rank_base: int = Field(4, ge=1, le=512, description="Rank r1 of the factor that starts from the weight.")
    rank_free: int = Field(4, ge=1, le=512, description="Rank r2 of the factor that starts at zero.")
    scale: float = Field(32.0, gt=0, le=4096, description="Factor s on the product of the two.")


class ABBA(WeightPart):
    """See the module's docstring."""

    Config, tiny = ABBAConfig, ABBAConfig(rank_base=3, rank_free=2)
    roles = ("attn.q", "attn.v")
    paper = Paper("Singhal et al., 2025", "https://arxiv.org/abs/2505.14238", 88)
    default_lr = (2e-2, "best of 1e-3, 5e-3 and 2e-2 on bundled/minilm (validation, 63 steps); released code: 1e-3 from 1 B up")
    reads_weight = False

    def __init__(self, cfg: ABBAConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        left, values, right = _leading(weight, cfg.rank_base, gen)
        self.B1 = nn.Parameter(left * values.sqrt())  # (d_out, r1)
        self.A1 = nn.Parameter(values.sqrt()[:, None] * right.t())  # (r1, d_in)
        self.B2 = nn.Parameter(torch.zeros(site.d_out, cfg.rank_free))
        self.A2 = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(cfg.rank_free, site.d_in), a=math.sqrt(5), generator=gen))

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        return self.cfg.scale * (self.B1 @ self.A1) * (self.B2 @ self.A2)

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        wide = (self.A1[:, None] * self.A2).flatten(0, 1)  # (r1 r2, d_in)
        tall = (self.B1[:, :, None] * self.B2[:, None]).flatten(1)  # (d_out, r1 r2)
        return self.cfg.scale * nn.functional.linear(nn.functional.linear(x, wide), tall)

    @classmethod
    def problem(cls, cfg: ABBAConfig, sites: list[Site]) -> str:
        most = min(min(s.shape) for s in sites)
        return "" if cfg.rank_base <= most else f"rank_base of abba must be at most {most}, the narrowest side of its sites."

    @staticmethod
    def n_params(cfg: ABBAConfig, sites: list[Site]) -> int:
        return sum((cfg.rank_base + cfg.rank_free) * (s.d_in + s.d_out) for s in sites)


def _leading(weight: Tensor, rank: int, gen: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The `rank` leading singular triplets U (d_out, rank), S (rank,), V (d_in, rank), by randomised power iteration."""
    with torch.random.fork_rng(devices=[]):  # svd_lowrank draws from the global generator only
        torch.default_generator.manual_seed(int(torch.randint(2**31, (), generator=gen)))
        wide = min(2 * rank + 2, *weight.shape)
        left, values, right = torch.svd_lowrank(weight, q=wide, niter=POWER_ITERATIONS)
    return left[:, :rank], values[:rank], right[:, :rank]
