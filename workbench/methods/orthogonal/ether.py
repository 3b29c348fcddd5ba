"""ETHER: every block of a weight's input is reflected at a trained hyperplane, so the weight keeps its distance from itself.

    W' = W H                  H = diag(H_1 .. H_n),  H_i = I - 2 u_i u_i^T                 u: (n, d_in / n), normalised per block
    ETHER+:  W' = H~ W H      H_i = I - u_i u_i^T + v_i v_i^T,  H~ likewise on d_out        v starts at -u, so H = I
    u ~ U(-sqrt(3 / k), sqrt(3 / k)) with k = d / n, before it is normalised

A reflection is orthogonal and lies at the fixed distance 2 sqrt(n) from the identity, whatever u is: training cannot run away,
so high learning rates do no harm. The start is not the base. ETHER+ (`relaxed`) lets the two hyperplanes differ, acts on both
sides, is at most as far from the identity and starts there. W' - W has rank n (2n on each side in ETHER+), so the forward pass
adds products with (d_out, n) matrices and never builds it. The number of blocks changes the cost, not the parameters.

Parameters per site: d_in; ETHER+ 2 (d_in + d_out).

Deviates from the paper: blocks are blocks of columns (and rows) of W, as its equations say; the released code groups rows.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, Placement, Preset, Site
from workbench.kernel.contract import Context, WeightPart

SOURCE = Paper("Bini et al., 2024", "https://arxiv.org/abs/2405.20271", 90)


class ETHERConfig(Placement):
    """Options of ETHER."""

    blocks: int = Field(4, ge=1, le=1024, description="Number n of blocks; it must divide the widths of every site.")
    relaxed: bool = Field(False, description="ETHER+: two hyperplanes a block, on both sides of the weight.")


class ETHER(WeightPart):
    """See the module's docstring."""

    Config, tiny = ETHERConfig, ETHERConfig()
    roles = ("attn.q", "attn.v")
    paper = SOURCE
    default_lr = (5e-2, "best of 2e-3, 1e-2 and 5e-2 on bundled/minilm for both forms (validation, 63 steps)")
    identity_at_init = False
    presets = {"ether_plus": Preset({"relaxed": True}, "ETHER+: two hyperplanes, both sides, starts as the base.", SOURCE)}

    def __init__(self, cfg: ETHERConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.reads_output = cfg.relaxed
        self.u = nn.Parameter(_drawn(cfg.blocks, site.d_in, gen))  # (n, d_in / n)
        if cfg.relaxed:
            self.v = nn.Parameter(-self.u.detach())
            self.u_out = nn.Parameter(_drawn(cfg.blocks, site.d_out, gen))  # (n, d_out / n)
            self.v_out = nn.Parameter(-self.u_out.detach())

    def _coordinates(self, x: Tensor, name: str) -> list[tuple[float, Tensor, Tensor]]:
        """(factor, unit vectors (n, d / n), x along them (..., n)) of every hyperplane on one side; x: (..., d)."""
        vectors = [getattr(self, f"{sign}{name}") for sign in ("uv" if self.cfg.relaxed else "u")]
        units = [nn.functional.normalize(vector, dim=-1) for vector in vectors]
        factors = (-1.0, 1.0) if self.cfg.relaxed else (-2.0,)
        blocks = x.unflatten(-1, (self.cfg.blocks, -1))
        return [(f, unit, torch.einsum("...nk,nk->...n", blocks, unit)) for f, unit in zip(factors, units, strict=True)]

    def _moved(self, x: Tensor, name: str = "") -> Tensor:
        """H x - x for x (..., d)."""
        return sum(f * (along[..., None] * unit).flatten(-2) for f, unit, along in self._coordinates(x, name))  # type: ignore[return-value]

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        inner = self._moved(weight)  # H is symmetric: W H reflects the rows of W
        return inner + self._moved((weight + inner).t(), "_out").t() if self.cfg.relaxed else inner

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        pairs = zip(self._coordinates(x, ""), self._coordinates(weight, ""), strict=True)
        inner: Tensor = sum((f * along) @ image.t() for (f, _, along), (_, _, image) in pairs)  # type: ignore[assignment]
        return inner + self._moved(torch.add(inner, y), "_out") if self.cfg.relaxed else inner

    @classmethod
    def starts_as_base(cls, cfg: ETHERConfig) -> bool:
        return cfg.relaxed

    @classmethod
    def problem(cls, cfg: ETHERConfig, sites: list[Site]) -> str:
        for site in sites:
            for width in site.shape if cfg.relaxed else site.shape[1:]:
                if width % cfg.blocks:
                    return f"blocks of ether must divide the width {width} of {site.path}; got {cfg.blocks}."
        return ""

    @staticmethod
    def n_params(cfg: ETHERConfig, sites: list[Site]) -> int:
        return sum(2 * (s.d_in + s.d_out) if cfg.relaxed else s.d_in for s in sites)


def _drawn(blocks: int, width: int, gen: torch.Generator) -> Tensor:
    """Raw vectors (n, width / n) of one side."""
    return nn.init.kaiming_uniform_(torch.empty(blocks, width // blocks), a=1, generator=gen)
