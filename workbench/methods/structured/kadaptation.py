"""KAdaptation: the change is a sum of Kronecker products whose small factors are shared by all layers.

    W' = W + s sum_i (s_i t_i^T) kron (u_i v_i^T),  i = 1..p        b' = b + c
    s_i, t_i: (p,) ~ U(-0.01, 0.01), one set per role, shared by all layers      c: (d_out,) = 0, one per block
    u_i: (d_out / p,) = 0,  v_i: (d_in / p,) ~ U(-1/sqrt(n), 1/sqrt(n)) for n = d_in / p, of each site

u starts at zero, so the start is the base, and v does not, so the first step moves u. Every term is an outer product,
(s_i kron u_i)(t_i kron v_i)^T, which is how it is computed; the change has rank up to p. The bias c is one vector for all
sites of a block (of equal width) that have a bias.

Parameters per site: d_in + d_out; per block d_out for the bias; per role 2 p^2.

Deviates from the paper: dropout acts on the input, per example, not on the entries of the change, and is off by default
(the authors' code: 0.5); the places are given, not picked by the local intrinsic dimension of their outputs.
"""

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.contract import Context, WeightPart


class KAdaptationConfig(Placement):
    """Options of KAdaptation."""

    p: int = Field(32, ge=1, le=1024, description="Number of terms and width of the shared factors; must divide both widths.")
    scale: float = Field(160.0, gt=0, le=4096, description="Factor s on the change; the authors' code has 5 * 128 / 4.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the change while training.")


class SlowFactors(nn.Module):
    """What the sites share: s and t, each (p, p) with a row per term, by role; c by block and width."""

    def __init__(self, p: int, sites: list[Site], gen: torch.Generator) -> None:
        super().__init__()
        roles, biases = _slow(sites), _biases(sites)

        def drawn() -> nn.Parameter:
            return nn.Parameter(torch.empty(p, p).uniform_(-0.01, 0.01, generator=gen))

        self.s = nn.ParameterDict({role: drawn() for role in roles})
        self.t = nn.ParameterDict({role: drawn() for role in roles})
        self.c = nn.ParameterDict({block: nn.Parameter(torch.zeros(width)) for block, width in biases.items()})


class KAdaptation(WeightPart):
    """See the module's docstring."""

    Config, tiny = KAdaptationConfig, KAdaptationConfig(p=4)
    roles = ("attn.q", "attn.v")
    paper = Paper("He et al., 2022", "https://arxiv.org/abs/2203.16329", 107)
    default_lr = (1e-2, "better than 2e-3 on bundled/minilm (validation, 63 steps); the authors arrive at 0.1 by search")
    reads_weight = False
    shared: SlowFactors

    def __init__(self, cfg: KAdaptationConfig, site: Site, shared: SlowFactors, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.u = nn.Parameter(torch.zeros(cfg.p, site.d_out // cfg.p))  # (p, d_out / p)
        self.v = nn.Parameter(
            nn.init.kaiming_uniform_(torch.empty(cfg.p, site.d_in // cfg.p), a=math.sqrt(5), generator=gen)
        )  # (p, d_in / p)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Rows t_i kron v_i (p, d_in) and s_i kron u_i (p, d_out)."""
        role = _role(self.site)
        return _row_products(self.shared.t[role], self.v), _row_products(self.shared.s[role], self.u)

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        inward, outward = self.factors()
        return self.cfg.scale * (outward.t() @ inward)

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        inward, outward = self.factors()
        x = nn.functional.dropout(x, self.cfg.dropout, self.training)
        return self.cfg.scale * nn.functional.linear(nn.functional.linear(x, inward), outward.t())

    def delta_bias(self, bias: Tensor, weight: Tensor | None, ctx: Context) -> Tensor | None:
        return self.shared.c[_block(self.site)]

    @classmethod
    def build_shared(cls, cfg: KAdaptationConfig, sites: list[Site], gen: torch.Generator) -> SlowFactors:
        return SlowFactors(cfg.p, sites, gen)

    @classmethod
    def problem(cls, cfg: KAdaptationConfig, sites: list[Site]) -> str:
        """A width that p does not divide."""
        odd = next((s for s in sites if s.d_out % cfg.p or s.d_in % cfg.p), None)
        if odd is None:
            return ""
        return f"p must divide both widths of a weight; {odd.path} has {odd.d_out} x {odd.d_in}, p is {cfg.p}: choose another p."

    @staticmethod
    def n_params(cfg: KAdaptationConfig, sites: list[Site]) -> int:
        return 2 * cfg.p**2 * len(_slow(sites)) + sum(_biases(sites).values()) + sum(s.d_in + s.d_out for s in sites)


def _row_products(slow: Tensor, fast: Tensor) -> Tensor:
    """The Kronecker product of every row of slow (p, p) with the same row of fast (p, n): (p, p n)."""
    return (slow[:, :, None] * fast[:, None, :]).flatten(1)


def _role(site: Site) -> str:
    """The key of a site's slow factors."""
    return site.role.replace(".", "_")


def _block(site: Site) -> str:
    """The key of a site's bias."""
    return f"{site.tower}_{site.stack}_{site.depth}_{site.d_out}"


def _slow(sites: list[Site]) -> list[str]:
    return list(dict.fromkeys(_role(s) for s in sites))


def _biases(sites: list[Site]) -> dict[str, int]:
    return {_block(s): s.d_out for s in sites if s.bias}
