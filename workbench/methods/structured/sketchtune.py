"""SketchTune: every weight becomes integer codes into small tables, and the tables are trained.

    W'[i, j] = t[i, k(j), c[i, j]]      t: (d_out, g, 2^b) trained,  c: (d_out, d_in) codes, frozen,  k(j) = floor(j g / d_in)
    start: t and c make  sum_j s_j (W[i, j] - W'[i, j])^2  of every row and group small,  s_j = mean of x_j^2 over inputs x
    dL/dt[i, k, v] = sum of dL/dW'[i, j] over the j of group k with c[i, j] = v

The start is the sketch, not the base: compression comes first and training repairs it. The sketch is a weighted k-means in one
dimension (`kernel/kmeans.py`). The inputs' squares s come from a few training rows, looked at before training; without them
every column counts the same. The weight is looked up anew in the backward pass, so nothing of its size is kept for it. The file
holds b / 8 bytes per weight (3 bits as 4, 5 to 7 as 8) and 4 bytes per table value: at b = 4 that is less than half of the
weights in fp16 where a group has more than 128 columns.

Parameters per site: d_out g 2^b.

Deviates from the paper: s is the diagonal of the inputs' second moment, not of its inverse, and no error is passed on to later
columns; the base stays in memory beside the sketch and its product is taken off again, where the paper has the sketch alone.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, Placement, Site
from workbench.kernel.contract import Context, WeightPart
from workbench.kernel.kmeans import kmeans

CHUNK = 2048
"""Rows that are sketched at a time; bounds the memory."""
FLOOR = 0.01
"""Least weight of a column, of the mean: an input that was zero in a few rows will not stay so."""


class SketchTuneConfig(Placement):
    """Options of SketchTune."""

    bits: int = Field(4, ge=1, le=8, description="Bits b of a code; a table has 2^b values.")
    groups: int = Field(2, ge=1, le=256, description="Tables g per row; the paper has 4 on rows of 4096 and more.")
    calibration: int = Field(64, ge=0, le=4096, description="Training rows that weigh the columns; 0 weighs all the same.")


class SketchTune(WeightPart):
    """See the module's docstring."""

    Config, tiny = SketchTuneConfig, SketchTuneConfig(bits=2)
    roles = ("attn.q", "attn.k", "attn.v", "attn.out", "ffn.up", "ffn.gate", "ffn.down")
    paper = Paper("Zhang et al., 2024", "https://arxiv.org/abs/2410.06364", 116)
    default_lr = (1e-3, "better than 2e-4 on bundled/minilm (validation, 20 steps, too few to tell more); the paper: 8e-5 at 7 B")
    identity_at_init = False
    reads_output, reads_weight = True, False
    squares: Tensor | None = None  # sum of x^2 over what was observed, (d_in,)

    def __init__(self, cfg: SketchTuneConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        tables, codes = sketch(weight, torch.ones(site.d_in, device=weight.device), cfg.groups, cfg.bits)
        self.tables = nn.Parameter(tables)  # (d_out, g, 2^b)
        self.codes = nn.Buffer(packed(codes, cfg.bits))  # (d_out, ceil(d_in / codes per byte)) uint8

    @classmethod
    def calibration_rows(cls, cfg: SketchTuneConfig) -> int:
        return cfg.calibration

    def observe(self, x: Tensor) -> None:
        squares = x.square().sum(0)
        self.squares = squares if self.squares is None else self.squares + squares

    def prepare(self, weight: Tensor) -> None:
        if self.squares is None or not (mean := self.squares.mean()) > 0:
            return  # nothing flowed into the site: every column counts the same
        tables, codes = sketch(weight, self.squares / mean + FLOOR, self.cfg.groups, self.cfg.bits)
        self.tables.copy_(tables)
        self.codes.copy_(packed(codes, self.cfg.bits))
        self.squares = None

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        return self.tables.gather(2, self._index()).flatten(1) - weight

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        return Looked.apply(x, self.tables, self._index) - y

    def _index(self) -> Tensor:
        """The codes as (d_out, g, d_in / g) int64."""
        return unpacked(self.codes, self.cfg.bits)[:, : self.site.d_in].long().unflatten(1, (self.cfg.groups, -1))

    @classmethod
    def problem(cls, cfg: SketchTuneConfig, sites: list[Site]) -> str:
        """Groups of unequal size, or inputs that are no vectors."""
        if odd := next((s for s in sites if s.d_in % cfg.groups), None):
            return f"groups must divide the inputs of every site; {odd.path} has {odd.d_in}, not a multiple of {cfg.groups}."
        odd = next((s for s in sites if cfg.calibration and s.kind not in ("linear", "conv1d")), None)
        return f"{odd.path} does not read vectors, which calibration needs; set it to 0 or choose other roles." if odd else ""

    @staticmethod
    def n_params(cfg: SketchTuneConfig, sites: list[Site]) -> int:
        return sum(s.d_out * cfg.groups * 2**cfg.bits for s in sites)


class Looked(torch.autograd.Function):
    """x (..., d_in) times the looked-up weight; keeps x and the tables, and reads the codes again on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tables: Tensor, index: Any) -> Tensor:
        ctx.save_for_backward(x, tables)
        ctx.index = index
        return nn.functional.linear(x, tables.gather(2, index()).flatten(1))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:  # type: ignore[override]
        x, tables = ctx.saved_tensors
        index, back = ctx.index(), None
        if ctx.needs_input_grad[0]:
            back = (grad @ tables.gather(2, index).flatten(1).to(grad.dtype)).to(x.dtype)
        dense = grad.flatten(0, -2).t() @ x.flatten(0, -2).to(grad.dtype)
        return back, torch.zeros_like(tables).scatter_add_(2, index, dense.to(tables.dtype).view_as(index)), None


def packed(codes: Tensor, bits: int) -> Tensor:
    """uint8 codes (n, m), as many in a byte as fit whole -> (n, ceil(m / per))."""
    per = 8 // bits
    full = nn.functional.pad(codes, (0, -codes.shape[1] % per)).unflatten(1, (-1, per))
    return (full << (bits * torch.arange(per, dtype=torch.uint8, device=codes.device))).sum(-1).to(torch.uint8)


def unpacked(packs: Tensor, bits: int) -> Tensor:
    """What `packed` was given, with the last byte's padding."""
    shifts = bits * torch.arange(8 // bits, dtype=torch.uint8, device=packs.device)
    return (packs[..., None] >> shifts & 2**bits - 1).flatten(1)


def sketch(weight: Tensor, share: Tensor, groups: int, bits: int) -> tuple[Tensor, Tensor]:
    """Tables (d_out, groups, 2^bits) and codes (d_out, d_in) in uint8 of a weight (d_out, d_in) with column weights (d_in,)."""
    parts = [kmeans(rows.unflatten(1, (groups, -1)), share.view(groups, -1), 2**bits) for rows in weight.split(CHUNK)]
    return torch.cat([t for t, _ in parts]), torch.cat([c.to(torch.uint8) for _, c in parts]).flatten(1)
