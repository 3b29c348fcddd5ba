"""Elastic LoRA: one LoRA whose leading rows are LoRAs of smaller rank, over a base that may be pruned and quantised.

    W' = Q(M * W + M * s B[:, :rho] A[:rho])    A: (R, d_in) ~ U(-1/sqrt(d_in), 1/sqrt(d_in)),  B: (d_out, R) = 0,  s = alpha / R
    M_ij = 0 for the `sparsity` share of row i with the least |W_ij| ||x_j||_2, else 1
    Q = identity; with `int4` u (clamp(round(v / u + z), 0, 15) - z),  u = (hi - lo) / 15,  z = round(-lo / u)

Every training step draws a rank rho for each group of sites and trains these rows alone; the recipe `search` then chooses ranks
on validation rows, and the operation `cut_rank` gives an ordinary LoRA. The norms ||x_j|| come from calibration rows (Wanda);
without them they are 1 (magnitude pruning). With `masked: false` merging fills the zeros of the base (Shears). INT4: lo and hi
are the extremes of zero and M * W over 32 columns of a row, gradients pass straight through, and zeros stay zeros.

Parameters per site: R (d_in + d_out), and rho (d_in + d_out) once ranks are chosen.

Deviates from the paper: the first three steps train rank R. The base is kept beside what stands for it, so pruning and INT4 save
no memory; INT4 scales are extremes, not GPTQ's. Elastic widths of the base (LoNAS) and dropout are not built.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from workbench.core.types import Paper, Placement, Preset, Site
from workbench.kernel.contract import Context, WeightPart
from workbench.kernel.elastic import Elastic

COLUMNS = 32
"""Columns that share an INT4 scale."""


class LoRANasConfig(Placement):
    """Options of elastic LoRA."""

    ranks: Annotated[tuple[Annotated[int, Field(ge=1, le=1024)], ...], AfterValidator(lambda r: tuple(sorted(set(r))))] = Field(
        (4, 6, 8), min_length=1, max_length=16, description="Ranks to choose from; the largest is R."
    )
    alpha: float = Field(16.0, gt=0, le=4096, description="Scale: the change is multiplied by alpha / R at every rank.")
    groups: Literal["site", "attention", "block"] = Field(
        "attention", description="What always has one rank: each site, q, k and v of a block, or a whole block."
    )
    sparsity: float = Field(0.0, ge=0, lt=1, description="Share of every row of the base weight that is pruned.")
    masked: bool = Field(True, description="Prune the change as well, so that merging keeps the zeros (SparsePEFT).")
    int4: bool = Field(False, description="Train what INT4 would make of the merged weight (QA-SparsePEFT).")
    calibration: int = Field(64, ge=1, le=4096, description="Training rows that say how large the inputs of a weight are.")


class LoRANas(Elastic, WeightPart):
    """See the module's docstring."""

    Config, tiny = LoRANasConfig, LoRANasConfig(ranks=(2, 3, 4))
    roles = ("attn.q", "attn.v")
    paper = Paper("Muñoz et al., 2025", "https://arxiv.org/abs/2501.16372", 118)
    default_lr = (1e-2, "best of 2e-3, 5e-3 and 1e-2 on bundled/minilm (validation, 63 steps); the paper: 3e-4")
    presets = {
        "shears": Preset({"sparsity": 0.5, "masked": False}, "Shears: elastic LoRA beside a base pruned by half."),
        "sparse_peft": Preset({"sparsity": 0.5}, "SparsePEFT: the change is pruned too, so merging keeps the zeros."),
        "qa_sparse_peft": Preset({"sparsity": 0.5, "int4": True}, "QA-SparsePEFT: trained as the INT4 weight it is merged into."),
    }
    norms: Tensor
    mask: Tensor

    def __init__(self, cfg: LoRANasConfig, site: Site, shared: Any, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        rank = cfg.ranks[-1]
        self.A = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(rank, site.d_in), a=math.sqrt(5), generator=gen))
        self.B = nn.Parameter(torch.zeros(site.d_out, rank))
        self.scale, self.reads_weight = cfg.alpha / rank, cfg.sparsity > 0 or cfg.int4
        self.squares = torch.zeros(site.d_in)
        if cfg.sparsity:
            self.register_buffer("norms", torch.ones(site.d_in))
            self.register_buffer("mask", torch.ones(site.shape, dtype=torch.bool), persistent=False)
            self.register_buffer("made_for", -torch.ones(site.d_in), persistent=False)  # the norms of `mask`
        self.start()

    @property
    def group(self) -> str:
        s, attention = self.site, ("attn.q", "attn.k", "attn.v")
        together = self.cfg.groups == "block" or (self.cfg.groups == "attention" and s.role in attention)
        return f"{s.tower}.{s.stack}.{s.depth}" if together else s.key

    def choices(self) -> tuple[tuple[int, ...], ...]:
        return (self.cfg.ranks,)

    def size(self, choice: Sequence[int]) -> int:
        return choice[0] * sum(self.site.shape)

    @classmethod
    def calibration_rows(cls, cfg: LoRANasConfig) -> int:
        return cfg.calibration if cfg.sparsity else 0

    def observe(self, x: Tensor) -> None:
        self.squares = self.squares.to(x.device) + x.square().sum(0)

    def prepare(self, weight: Tensor | None) -> None:
        self.norms.copy_(self.squares.sqrt())

    def kept(self, weight: Tensor) -> Tensor:
        """M (d_out, d_in), made from the base weight once for the norms as they are."""
        if not torch.equal(self.made_for, self.norms):
            least = (weight.abs() * self.norms).argsort(dim=1, stable=True)[:, : int(self.cfg.sparsity * self.site.d_in)]
            self.mask = torch.ones_like(weight, dtype=torch.bool).scatter(1, least, False)
            self.made_for = self.norms.clone()
        return self.mask

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        (rank,) = self.now()
        change = self.scale * (self.B[:, :rank] @ self.A[:rank])
        if not self.reads_weight:
            return change
        mask = self.kept(weight) if self.cfg.sparsity else torch.ones_like(weight)
        base = weight * mask
        total = base + (change * mask if self.cfg.masked else change)
        if self.cfg.int4:
            total = total + (rounded(total, base) - total).detach()
        return total - weight

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        if self.reads_weight:
            return nn.functional.linear(x, self.delta(weight, ctx))
        (rank,) = self.now()
        return self.scale * nn.functional.linear(nn.functional.linear(x, self.A[:rank]), self.B[:, :rank])

    @classmethod
    def starts_as_base(cls, cfg: LoRANasConfig) -> bool:
        return not (cfg.sparsity or cfg.int4)

    @classmethod
    def problem(cls, cfg: LoRANasConfig, sites: list[Site]) -> str:
        narrow = min(min(s.shape) for s in sites)
        if cfg.ranks[-1] > narrow:
            return f"ranks of lora_nas must be at most {narrow}, the narrowest side of its sites; got {cfg.ranks[-1]}."
        wrong = [s.path for s in sites if s.kind not in ("linear", "conv1d") or (cfg.int4 and s.d_in % COLUMNS)]
        return f"{wrong[0]} must be linear, for int4 with a multiple of {COLUMNS} columns: choose other roles." if wrong else ""

    @staticmethod
    def n_params(cfg: LoRANasConfig, sites: list[Site]) -> int:
        return sum(cfg.ranks[-1] * (s.d_in + s.d_out) for s in sites)


def rounded(total: Tensor, base: Tensor) -> Tensor:
    """total (d_out, d_in) on the INT4 grid of base: one scale and one zero point for every `COLUMNS` columns of a row."""
    parts = base.unflatten(1, (-1, COLUMNS))
    low, high = parts.amin(2, keepdim=True).clamp(max=0), parts.amax(2, keepdim=True).clamp(min=0)
    unit = ((high - low) / 15).clamp(min=torch.finfo(base.dtype).tiny)
    zero = (-low / unit).round()
    return (unit * ((total.unflatten(1, (-1, COLUMNS)) / unit + zero).round().clamp(0, 15) - zero)).flatten(1)
