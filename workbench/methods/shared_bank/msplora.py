"""MSPLoRA: one LoRA for all layers, one for each third of them and one for each layer are added up.

    W_l' = W_l + sum over scales k of (alpha / r_k) B_k A_k      k = global, mid(l), layer l
    A_k: (r_k, d_in) ~ U(-1/sqrt(d_in), 1/sqrt(d_in)),  B_k: (d_out, r_k) = 0      r_k = r, r / decay, r / decay^2

Every B starts at zero, so the start is exactly the base. Weights of one role and shape share: the global pair in all
layers, a mid pair in one of `mid_groups` contiguous ranges of layers of (nearly) equal length. Shared pairs act in every layer
that they belong to, and are stored once.

Parameters per site: r_layer (d_in + d_out); per role and shape (r + groups r_mid) (d_in + d_out).

Deviates from the paper: its optional schedule that trains one scale after the other is left out; all train together.
"""

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.contract import Context, WeightPart


class MSPLoRAConfig(Placement):
    """Options of MSPLoRA."""

    rank: int = Field(8, ge=1, le=1024, description="Rank r of the pair that all layers share.")
    decay: int = Field(2, ge=1, le=32, description="Each finer scale has the rank of the coarser one divided by this.")
    mid_groups: int = Field(3, ge=1, le=64, description="Ranges of layers that share a mid pair each.")
    alpha: float = Field(16.0, gt=0, le=4096, description="Scale: each pair is multiplied by alpha / its own rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of each pair while training.")

    @property
    def ranks(self) -> tuple[int, int, int]:
        """Ranks of the global, mid and layer pairs."""
        return self.rank, self.rank // self.decay, self.rank // self.decay**2


class Pair(nn.Module):
    """One LoRA pair: s B A."""

    def __init__(self, cfg: MSPLoRAConfig, rank: int, site: Site, gen: torch.Generator) -> None:
        super().__init__()
        self.A = nn.Parameter(
            nn.init.kaiming_uniform_(torch.empty(rank, site.d_in), a=math.sqrt(5), generator=gen)
        )  # (r_k, d_in)
        self.B = nn.Parameter(torch.zeros(site.d_out, rank))  # (d_out, r_k)
        self.scale, self.dropout = cfg.alpha / rank, cfg.dropout

    def matrix(self) -> Tensor:
        """s B A (d_out, d_in)."""
        return self.scale * (self.B @ self.A)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.dropout(x, self.dropout, self.training)
        return self.scale * nn.functional.linear(nn.functional.linear(x, self.A), self.B)


class Pyramid(nn.Module):
    """The pairs that several layers share, by name, and the names of each site's two."""

    def __init__(self, cfg: MSPLoRAConfig, sites: list[Site], gen: torch.Generator) -> None:
        super().__init__()
        self.of = sharing(cfg, sites)
        self.pairs = nn.ModuleDict()
        for site in sites:
            for name, rank in zip(self.of[site.key], cfg.ranks, strict=False):
                if name not in self.pairs:
                    self.pairs[name] = Pair(cfg, rank, site, gen)


class MSPLoRA(WeightPart):
    """See the module's docstring."""

    Config, tiny = MSPLoRAConfig, MSPLoRAConfig(rank=8)
    roles = ("attn.q", "attn.v")
    paper = Paper("Zhao et al., 2025", "https://arxiv.org/abs/2503.21838", 106)
    default_lr = (
        5e-3,
        "best of 1.7e-3, 5e-3 and 1.5e-2 on bundled/minilm (validation, 63 steps, 2 seeds); the paper: 3e-4 to 4e-4",
    )
    reads_weight = False
    shared: Pyramid

    def __init__(self, cfg: MSPLoRAConfig, site: Site, shared: Pyramid, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.layer = Pair(cfg, cfg.ranks[2], site, gen)

    def scales(self) -> list[Pair]:
        """This layer's three pairs, coarsest first."""
        return [*(self.shared.pairs[name] for name in self.shared.of[self.site.key]), self.layer]  # type: ignore[list-item]

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        coarse, mid, fine = (pair.matrix() for pair in self.scales())
        return coarse + mid + fine

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        coarse, mid, fine = (pair(x) for pair in self.scales())
        return coarse + mid + fine

    @classmethod
    def build_shared(cls, cfg: MSPLoRAConfig, sites: list[Site], gen: torch.Generator) -> Pyramid:
        return Pyramid(cfg, sites, gen)

    @classmethod
    def problem(cls, cfg: MSPLoRAConfig, sites: list[Site]) -> str:
        """A rank too small to be divided twice."""
        if cfg.rank >= cfg.decay**2:
            return ""
        return f"rank must be at least decay^2 = {cfg.decay**2}, so that a layer's own pair has rank 1; got {cfg.rank}."

    @staticmethod
    def n_params(cfg: MSPLoRAConfig, sites: list[Site]) -> int:
        of = sharing(cfg, sites)
        shared = {name: (s, rank) for s in sites for name, rank in zip(of[s.key], cfg.ranks, strict=False)}
        return sum(rank * (s.d_in + s.d_out) for s, rank in [*shared.values(), *((s, cfg.ranks[2]) for s in sites)])


def sharing(cfg: MSPLoRAConfig, sites: list[Site]) -> dict[str, tuple[str, str]]:
    """Site key -> names of its global and its mid pair: one type per tower, stack, role and shape, split by depth."""
    depths: dict[str, set[int]] = {}
    for site in sites:
        depths.setdefault(_type(site), set()).add(site.depth)
    order = {kind: {d: i for i, d in enumerate(sorted(some))} for kind, some in depths.items()}
    groups = {(k, d): i * cfg.mid_groups // len(some) for k, some in order.items() for d, i in some.items()}
    return {s.key: (f"{_type(s)}_global", f"{_type(s)}_mid{groups[_type(s), s.depth]}") for s in sites}


def _type(site: Site) -> str:
    return f"{site.tower}_{site.stack}_{site.role.replace('.', '_')}_{site.d_out}x{site.d_in}"
