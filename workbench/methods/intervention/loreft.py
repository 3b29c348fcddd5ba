"""LoReFT: the residual stream is edited in a low-rank subspace at the first and last prompt tokens.

    loreft:    h' = h + R^T (f(W h + b) - R h)      R: (r, d), R R^T = I, random orthonormal rows
    noreft:    the same, R unconstrained            R, W: (r, d) ~ U(-1/sqrt(d), 1/sqrt(d))
    direft:    h' = h + R^T f(W h + b)              R orthonormal; b: (r,) ~ U(-1/sqrt(d), 1/sqrt(d))
    nodireft:  the same, R unconstrained
    constant:  h' = h + R^T (b - R h)               R orthonormal; b: (r,) ~ U(0, 1); no W

h is the output of a block at an edited token. The start is not the base, as published. `positions: f7+l7` edits the
first and the last 7 tokens of the prompt (a prompt shorter than 14 is split between them, every token edited once),
`all` every prompt token; tokens that are generated are never edited. Untied, first and last tokens have tensors of
their own. R is kept orthonormal by a QR decomposition of the trained matrix, which weight decay cannot disturb.

Parameters per site: units (2 r d + r), constant units (r d + r); units = 1 if tied or all, else one for first and one for last.
"""

import re
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from workbench.core.errors import WorkbenchError
from workbench.core.types import Paper, Placement, Preset, Site
from workbench.kernel.contract import ActivationPart, Context

ACTIVATIONS = {"identity": lambda x: x, "relu": nn.functional.relu, "gelu": nn.functional.gelu, "tanh": torch.tanh}


class LoReFTConfig(Placement):
    """Options of LoReFT and its relatives."""

    rank: int = Field(8, ge=1, le=1024, description="Rank r of the subspace; at most the width of the model.")
    variant: Literal["loreft", "noreft", "direft", "nodireft", "constant"] = Field("loreft", description="Which edit it is.")
    positions: str = Field(
        "f7+l7",
        pattern=r"^(all|[fl][1-9]\d{0,3}|f[1-9]\d{0,3}\+l[1-9]\d{0,3})$",
        description="Edited prompt tokens: fN first, lN last, fN+lM both, or all.",
    )
    tied: bool = Field(True, description="First and last tokens share one edit.")
    activation: Literal["identity", "relu", "gelu", "tanh"] = Field("identity", description="Non-linearity f on W h + b.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the edited state while training.")

    @property
    def orthonormal(self) -> bool:
        """Whether R keeps orthonormal rows."""
        return not self.variant.startswith("no")

    @property
    def units(self) -> int:
        """How many edits a site has."""
        return 1 if self.tied or "+" not in self.positions else 2

    def count(self, end: Literal["f", "l"]) -> int:
        """How many tokens to edit at one end."""
        found = re.search(rf"{end}(\d+)", self.positions)
        return int(found[1]) if found else 0


class OrthonormalRows(nn.Module):
    """Maps any (units, r, d) of full rank to orthonormal rows of the same span; orthonormal rows to themselves, bit for bit."""

    def forward(self, raw: Tensor) -> Tensor:
        q, upper = torch.linalg.qr(raw.mT)
        rows = (q * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).mT
        there = (rows - raw).abs().amax((-2, -1), keepdim=True) < 2e-6
        # the value of what was loaded, the gradient of the decomposition
        return torch.where(there, raw, rows).detach() + (rows - rows.detach())

    def right_inverse(self, rows: Tensor) -> Tensor:
        return rows


class LoReFT(ActivationPart):
    """See the module's docstring."""

    Config, tiny = LoReFTConfig, LoReFTConfig(rank=2, positions="f1+l1")
    roles = ("block.out",)
    needs = ("positions",)
    paper = Paper("Wu et al., 2024", "https://arxiv.org/abs/2404.03592", 105)
    default_lr = (5e-3, "better than 2e-3 on bundled/minilm (validation, 78 steps); the paper uses 9e-4 on 7 B parameters")
    identity_at_init = False
    not_mergeable = "it edits single tokens, and a weight acts on all of them"
    presets = {
        "noreft": Preset({"variant": "noreft"}, "NoReFT: the subspace is not kept orthonormal."),
        "direft": Preset({"variant": "direft"}, "DiReFT: the edit is added without removing what was there."),
        "nodireft": Preset({"variant": "nodireft"}, "NoDiReFT: added, and not kept orthonormal."),
        "constant_reft": Preset(
            {"variant": "constant"}, "Constant edit: the same learned point in the subspace for every input."
        ),
    }

    def __init__(self, cfg: LoReFTConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor | None) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        shape, bound = (cfg.units, cfg.rank, site.d_out), site.d_out**-0.5
        self.R = nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=gen))
        if cfg.orthonormal:
            for unit in self.R.data:
                nn.init.orthogonal_(unit, generator=gen)
            parametrize.register_parametrization(self, "R", OrthonormalRows())
        constant = cfg.variant == "constant"
        self.W = None if constant else nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=gen))
        low, high = (0.0, 1.0) if constant else (-bound, bound)
        self.b = nn.Parameter(torch.empty(shape[:2]).uniform_(low, high, generator=gen))

    def edit(self, h: Tensor, x: Tensor, ctx: Context) -> Tensor:
        rows, new = self.R, h
        for unit, where in enumerate(self._selected(h, ctx)):
            new = torch.where(where[..., None], self._edited(h, rows[unit], unit), new)
        return new

    def _edited(self, h: Tensor, rows: Tensor, unit: int) -> Tensor:
        """Every token of h (batch, tokens, d) edited with R = rows (r, d)."""
        target = self.b[unit] if self.W is None else nn.functional.linear(h, self.W[unit], self.b[unit])
        change = ACTIVATIONS[self.cfg.activation](target)
        if not self.cfg.variant.endswith("direft"):
            change = change - nn.functional.linear(h, rows)
        return nn.functional.dropout(h + change @ rows, self.cfg.dropout, self.training)

    def _selected(self, h: Tensor, ctx: Context) -> list[Tensor]:
        """One mask (batch, tokens) per unit of the tokens to edit; with a key-value cache h holds only the newest tokens."""
        if "positions" not in ctx:
            raise WorkbenchError("loreft needs to know where the prompt lies; give adapters.context(positions=...), (batch, 2).")
        start, end = ctx["positions"].to(h.device)[:, :, None].unbind(1)  # (batch, 1) each
        past = ctx["mask"].shape[-1] - h.shape[1] if "mask" in ctx else 0
        token = torch.arange(past, past + h.shape[1], device=h.device)
        if self.cfg.positions == "all":
            return [(token >= start) & (token < end)]
        length = end - start
        first = (length // 2 if self.cfg.count("l") else length).clamp(max=self.cfg.count("f"))
        last = (length - length // 2 if self.cfg.count("f") else length).clamp(max=self.cfg.count("l"))
        ends = [(token >= start) & (token < start + first), (token >= end - last) & (token < end)]
        if self.cfg.units == 2:
            return ends
        return [ends[0] | ends[1]]

    @classmethod
    def problem(cls, cfg: LoReFTConfig, sites: list[Site]) -> str:
        narrow = min((s.d_out for s in sites), default=cfg.rank)
        return f"loreft.rank must be at most the width of the model, {narrow}; got {cfg.rank}." if cfg.rank > narrow else ""

    @staticmethod
    def n_params(cfg: LoReFTConfig, sites: list[Site]) -> int:
        matrices = 1 if cfg.variant == "constant" else 2
        return sum(cfg.units * cfg.rank * (matrices * s.d_out + 1) for s in sites)
