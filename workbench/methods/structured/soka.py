"""SoKA: the leading Kronecker terms of the weight itself are trained, and the rest of it stays frozen.

    W = sum_k s_k U_k (x) V_k       U_k: (m1, n1),  V_k: (m2, n2),  d_out = m1 m2,  d_in = n1 n2
    W' = W + sum_{k<=r} (A_k (x) B_k - A0_k (x) B0_k)       A0_k = A_k = sqrt(s_k) U_k,  B0_k = B_k = sqrt(s_k) V_k at the start
    s, U, V: the singular value decomposition of W with every (m2, n2) block as one row
    r = min(energy, elbow, cap):  energy: the least r with sum_{k<=r} s_k^2 >= eta sum_k s_k^2;
    elbow: the terms before the point of the curve s_k farthest below the chord between its ends

This is to Kronecker products what PiSSA is to low rank: training starts in the directions that matter most to W. The start is
exactly the base, which is left alone: A0 and B0 are frozen copies, stored with the adapter. There is always room for cap terms;
those past r are zero in all four, so no gradient reaches them, they never move, and they are not counted. Products with (x)
reshape x and never build the matrix. Widths are split as near their square roots as they divide.

Parameters per site: r (m1 n1 + m2 n2), with r at most cap and known only once the weight is; plans show the most it can be.

Deviates from the paper: it names the criteria of r but not how they combine, nor eta; the values here are a proposal.
"""

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.contract import Context, WeightPart

NO_ELBOW = 0.05
"""A curve less deep below its chord than this share of s_1 counts as flat and has no elbow."""


class SoKAConfig(Placement):
    """Options of SoKA."""

    cap: int = Field(16, ge=1, le=1024, description="Most Kronecker terms r of a site.")
    energy: float = Field(0.9, gt=0, le=1, description="Share eta of the squared spectrum that the trained terms should hold.")


class SoKA(WeightPart):
    """See the module's docstring."""

    Config, tiny = SoKAConfig, SoKAConfig()
    roles = ("attn.q", "attn.v")
    paper = Paper("Chong and Qu, 2025", "https://arxiv.org/abs/2506.15251", 7)
    default_lr = (
        2e-2,
        "best of 2e-3, 5e-3 and 2e-2 on bundled/minilm (validation, 63 steps); the paper's rate is not known here",
    )
    reads_weight = False

    def __init__(self, cfg: SoKAConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.m, self.n = splits(site)
        U, s, V = torch.linalg.svd(rearranged(weight, self.m, self.n), full_matrices=False)
        room = min(cfg.cap, len(s))
        used = torch.arange(room, device=s.device) < spectrum_rank(s, cfg.energy)
        root = (s[:room].sqrt() * used)[:, None, None]
        start = root * U.t()[:room].unflatten(1, (self.m[0], self.n[0]))  # (room, m1, n1)
        other = root * V[:room].unflatten(1, (self.m[1], self.n[1]))  # (room, m2, n2)
        self.A, self.B = nn.Parameter(start.clone()), nn.Parameter(other.clone())
        self.A0, self.B0 = nn.Buffer(start), nn.Buffer(other)

    def terms(self) -> tuple[Tensor, Tensor]:
        """Factors (2 room, m1, n1) and (2 room, m2, n2) of the change; differences that half precision can hold."""
        return torch.cat([self.A - self.A0, self.A0]), torch.cat([self.B, self.B - self.B0])

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        return torch.einsum("kij,klm->iljm", *self.terms()).reshape(self.site.shape)

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        """sum_k A_k X B_k^T for X: (n1, n2) = x row by row; A first, since m1 n2 <= n1 m2."""
        A, B = self.terms()
        inner = A.transpose(0, 1).flatten(0, 1) @ x.unflatten(-1, self.n)  # (..., m1 terms, n2)
        outer = inner.unflatten(-2, (self.m[0], -1)).flatten(-2) @ B.transpose(1, 2).flatten(0, 1)  # (..., m1, m2)
        return outer.flatten(-2)

    @classmethod
    def counts_exactly(cls, cfg: SoKAConfig) -> bool:
        return False

    def in_use(self) -> int:
        return int(self.A0.flatten(1).any(1).sum()) * (self.A[0].numel() + self.B[0].numel())

    @staticmethod
    def n_params(cfg: SoKAConfig, sites: list[Site]) -> int:
        total = 0
        for site in sites:
            (m1, m2), (n1, n2) = splits(site)
            total += min(cfg.cap, m1 * n1, m2 * n2) * (m1 * n1 + m2 * n2)
        return total


def splits(site: Site) -> tuple[tuple[int, int], tuple[int, int]]:
    """((m1, m2), (n1, n2)): m1 at most the root of d_out, n1 at least that of d_in, so that both factors are about as large."""
    below = [next(d for d in range(math.isqrt(width), 0, -1) if width % d == 0) for width in site.shape]
    return (below[0], site.d_out // below[0]), (site.d_in // below[1], below[1])


def rearranged(weight: Tensor, m: tuple[int, int], n: tuple[int, int]) -> Tensor:
    """The weight (m1 m2, n1 n2) with block (i, j) of shape (m2, n2) as row i n1 + j: (m1 n1, m2 n2)."""
    return weight.unflatten(0, m).unflatten(2, n).transpose(1, 2).reshape(m[0] * n[0], m[1] * n[1])


def spectrum_rank(values: Tensor, energy: float) -> Tensor:
    """The terms to train by the energy and the elbow of singular values in falling order, the smaller of the two."""
    held = values.double().square().cumsum(0)
    enough = (held < energy * held[-1]).sum() + 1
    curve = values.double() / values[0].double().clamp_min(torch.finfo(values.dtype).tiny)
    chord = curve[0] + (curve[-1] - curve[0]) * torch.linspace(0, 1, len(curve), dtype=curve.dtype, device=curve.device)
    depth = chord - curve
    return torch.minimum(enough, torch.where(depth.max() > NO_ELBOW, depth.argmax(), len(values)))
