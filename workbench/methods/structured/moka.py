"""MoKA: the change is a gated sum of Kronecker products of differently shaped factors.

    W' = W + s sum_i alpha_i (A_i kron B_i)      alpha = softmax(g),  g: (R,) = 0
    A_i: (m_a, n_a) ~ U(-1/sqrt(n_a), 1/sqrt(n_a)),  B_i: (m_b, n_b) = 0      m_a m_b = d_out,  n_a n_b = d_in
    (A kron B) x = rows of A X B^T in order, X: (n_a, n_b) = x row by row

B starts at zero, so the start is exactly the base. A product has rank(A) rank(B), so a sum can reach full rank with few
parameters. `shapes` says how wide A is: about sqrt(d_out) / q high and q sqrt(d_in) wide, rounded to divisors, `copies` of each.
MoKA_s fixes one factor to an identity of size p, a common divisor of both widths near q (d_out d_in)^(1/4), and trains
the other from zero: with A = I a block-diagonal change, with B = I a strided one. Products of one size would stay equal for
ever there, so each size is taken once. A gate over one product is no gate. No product is formed in the forward pass.

Parameters per site: R + sum_i (m_a n_a + m_b n_b); with an identity factor R + sum_i d_out d_in / p_i^2; R counts 0 for R = 1.

Deviates from the paper: its list of shapes per layer and its scale are not known here; shapes follow from q, s is 1.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, Placement, Preset, Site
from workbench.kernel.contract import Context, WeightPart

Shape = tuple[int, int, int, int]
"""(m_a, n_a, m_b, n_b)."""


class MoKAConfig(Placement):
    """Options of MoKA."""

    shapes: tuple[Annotated[float, Field(ge=1 / 64, le=64)], ...] = Field(
        (0.25, 0.5, 1.0, 2.0, 4.0), min_length=1, max_length=16, description="Stretch q of each shape: 1 = square A, more = wide."
    )
    copies: int = Field(2, ge=1, le=64, description="Products of each shape, one where a factor is an identity.")
    scale: float = Field(1.0, gt=0, le=4096, description="Factor s on the sum.")
    identity: Literal["none", "A", "B"] = Field("none", description="Factor fixed to an identity matrix (MoKA_s).")


class MoKA(WeightPart):
    """See the module's docstring."""

    Config, tiny = MoKAConfig, MoKAConfig(shapes=(0.5, 1.0, 2.0))
    roles = ("attn.q", "attn.k", "attn.v", "attn.out", "ffn.up", "ffn.gate", "ffn.down")
    paper = Paper("Sadeghi et al., 2025", "https://arxiv.org/abs/2508.03527", 32)
    default_lr = (2e-2, "better than 5e-3 on bundled/minilm (validation, 63 steps); the paper's rate is not known here")
    presets = {
        "moka_s": Preset(
            {"identity": "A", "copies": 1, "shapes": (1.0, 2.0, 4.0)},
            "MoKA_s: the left factor of each product is an identity matrix, so the change has blocks.",
        ),
    }
    reads_weight = False

    def __init__(self, cfg: MoKAConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.shapes, self.copies = chosen_shapes(cfg, site), copies_of(cfg)
        start = torch.zeros(len(self.shapes) * self.copies)
        self.g = nn.Parameter(start) if len(start) > 1 else nn.Buffer(start)  # (R,), the copies of a shape side by side
        self.A, self.B = nn.ParameterList(), nn.ParameterList()  # per shape (copies, m_a, n_a) and (copies, m_b, n_b)
        for m_a, n_a, m_b, n_b in self.shapes:
            A, B = torch.zeros(self.copies, m_a, n_a), torch.zeros(self.copies, m_b, n_b)
            if cfg.identity == "none":
                A.uniform_(-1, 1, generator=gen).div_(math.sqrt(n_a))
            if cfg.identity != "A":
                self.A.append(nn.Parameter(A))
            if cfg.identity != "B":
                self.B.append(nn.Parameter(B))

    def products(self) -> list[tuple[Shape, Tensor, Tensor | None, Tensor | None]]:
        """(shape, alpha (copies,), A, B) of every shape; None stands for the identity."""
        alphas = self.g.softmax(0).split(self.copies)
        A, B = ([*some] or [None] * len(alphas) for some in (self.A, self.B))
        return list(zip(self.shapes, alphas, A, B, strict=True))

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        change = torch.zeros_like(weight)
        for (m_a, n_a, m_b, n_b), alpha, A, B in self.products():
            left = torch.eye(m_a, n_a, device=weight.device).expand(len(alpha), m_a, n_a) if A is None else A
            right = torch.eye(m_b, n_b, device=weight.device).expand(len(alpha), m_b, n_b) if B is None else B
            change = change + torch.einsum("r,rac,rbd->abcd", alpha, left, right).reshape(weight.shape)
        return self.cfg.scale * change

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        """s sum_i alpha_i A_i X B_i^T, in the order with the smaller intermediate."""
        total: Tensor | float = 0.0
        for (m_a, n_a, m_b, n_b), alpha, A, B in self.products():
            X = x.unflatten(-1, (n_a, n_b))
            if A is None or B is None:
                only = torch.einsum("r,rab->ab", alpha, B if A is None else A)
                out = X @ only.t() if A is None else only @ X
            else:
                gated = alpha[:, None, None] * B  # (copies, m_b, n_b)
                if m_a * n_b <= n_a * m_b:
                    low = A.transpose(0, 1).flatten(0, 1) @ X  # (..., m_a copies, n_b)
                    out = low.unflatten(-2, (m_a, -1)).flatten(-2) @ gated.transpose(1, 2).flatten(0, 1)
                else:
                    low = X @ gated.flatten(0, 1).t()  # (..., n_a, copies m_b)
                    out = A.permute(1, 2, 0).flatten(1) @ low.unflatten(-1, (-1, m_b)).flatten(-3, -2)
            total = total + out.flatten(-2)
        return self.cfg.scale * total

    @staticmethod
    def n_params(cfg: MoKAConfig, sites: list[Site]) -> int:
        count = {"none": lambda a, b, c, d: a * b + c * d, "A": lambda a, b, c, d: c * d, "B": lambda a, b, c, d: a * b}
        return sum(
            copies_of(cfg) * sum(count[cfg.identity](*shape) for shape in shapes) + (gates if gates > 1 else 0)
            for shapes in (chosen_shapes(cfg, site) for site in sites)
            for gates in [copies_of(cfg) * len(shapes)]
        )


def copies_of(cfg: MoKAConfig) -> int:
    """Products of each shape."""
    return cfg.copies if cfg.identity == "none" else 1


def chosen_shapes(cfg: MoKAConfig, site: Site) -> list[Shape]:
    """The factor shapes of every entry of `shapes` at one site."""
    if cfg.identity == "none":
        pairs = [(_near(site.d_out, math.sqrt(site.d_out) / q), _near(site.d_in, math.sqrt(site.d_in) * q)) for q in cfg.shapes]
        return [(m, n, site.d_out // m, site.d_in // n) for m, n in pairs]
    both = math.gcd(site.d_out, site.d_in)
    sizes = dict.fromkeys(_near(both, q * (site.d_out * site.d_in) ** 0.25) for q in cfg.shapes)
    fixed = [(p, p, site.d_out // p, site.d_in // p) for p in sizes]
    return fixed if cfg.identity == "A" else [(c, d, a, b) for a, b, c, d in fixed]


def _near(width: int, target: float) -> int:
    """The divisor of `width` whose ratio to `target` is nearest 1."""
    return min((d for d in range(1, width + 1) if width % d == 0), key=lambda d: abs(math.log(d / target)))
