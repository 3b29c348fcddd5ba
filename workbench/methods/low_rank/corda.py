"""CorDA: LoRA whose factors start as singular components of the weight, chosen by what flows into it.

    W' = W + s (B A - B0 A0)      A: (r, d_in) = A0,  B: (d_out, r) = B0 at the start
    W C = U S V^T                 B0 = U_r sqrt(S_r / s),  A0 = sqrt(S_r / s) V_r^T C^-1
    C: (d_in, d_in) = (X / m + d I) / (1 + d)      X = sum of x x^T over the inputs of `rows` training rows,  m = mean(diag X)

s B0 A0 = U_r U_r^T W is the part of the weight that is trained: the r largest components (what the rows need most, the
paper's IPM) or the r smallest (what they need least, KPM, so that the rest keeps what the weight does to them). Without rows
C = I: the largest are PiSSA, the smallest the minor components of URAE. The start is exactly the base, which is left alone:
A0 and B0 are frozen copies, stored with the adapter, so that W' is also a plain LoRA [B - B0, B0] [A; A - A0] of rank 2r.

Parameters per site: r (d_in + d_out).

Deviates from the paper: it writes the residual W - s B0 A0 over the base, which is the same W'. C is divided by its mean
diagonal, so that the sizes of A and B do not follow the size of the inputs, and damped once by d in float64; the released
code doubles d until an inverse in fp32 is good. Rows are always training rows; the paper's KPM takes those of another task.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, Placement, Preset, Site
from workbench.kernel.contract import Context, WeightPart

FASTER = (2e-2, "best of 1e-3, 5e-3 and 2e-2 on bundled/minilm (validation, 63 steps)")


class CorDAConfig(Placement):
    """Options of CorDA."""

    rank: int = Field(8, ge=1, le=1024, description="Singular components r that are trained.")
    scale: float = Field(1.0, gt=0, le=4096, description="Factor s, in LoRA alpha / r; the papers use 1.")
    components: Literal["largest", "smallest"] = Field("largest", description="Which of them: the largest or the smallest.")
    rows: int = Field(256, ge=0, le=100_000, description="Training rows whose inputs weigh the components; 0 = weight alone.")
    damping: float = Field(0.01, gt=0, le=100, description="Share d of the identity in the covariance of the inputs.")


class CorDA(WeightPart):
    """See the module's docstring."""

    Config, tiny = CorDAConfig, CorDAConfig(rank=4)
    roles = ("attn.q", "attn.v")
    paper = Paper("Yang et al., 2024", "https://arxiv.org/abs/2406.05223", 86)
    default_lr = (
        5e-3,
        "best of 1e-3, 5e-3 and 2e-2 on bundled/minilm (validation, 63 steps); the paper's 2e-5 is for 7 B parameters",
    )
    presets = {
        "corda_kpm": Preset(
            {"components": "smallest"}, "CorDA that keeps what the rows show: their least components train.", default_lr=FASTER
        ),
        "pissa": Preset(
            {"rows": 0},
            "PiSSA: the principal singular components of the weight train.",
            Paper("Meng et al., 2024", "https://arxiv.org/abs/2404.02948"),
            (8e-3, "better than 3e-3 on bundled/minilm (validation, 76 steps of 32)"),
        ),
        "urae": Preset(
            {"rows": 0, "components": "smallest"},
            "URAE's adapter: the minor singular components of the weight train.",
            Paper("Yu et al., 2025", "https://arxiv.org/abs/2503.16322", 58),
            (8e-3, "best of 3e-3, 8e-3 and 2e-2 on bundled/minilm (validation, 76 steps of 32)"),
        ),
    }
    reads_weight = False
    seen: Tensor | None = None

    def __init__(self, cfg: CorDAConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.A, self.B = nn.Parameter(torch.empty(cfg.rank, site.d_in)), nn.Parameter(torch.empty(site.d_out, cfg.rank))
        self.A0, self.B0 = nn.Buffer(torch.empty(cfg.rank, site.d_in)), nn.Buffer(torch.empty(site.d_out, cfg.rank))
        self._start(*torch.linalg.svd(weight, full_matrices=False))

    @torch.no_grad()
    def _start(self, U: Tensor, S: Tensor, V: Tensor) -> None:
        """Take r of the components W = U diag(S) V: (d_out, n), (n,) in falling order, (n, d_in)."""
        r = self.cfg.rank
        some = slice(r) if self.cfg.components == "largest" else slice(-r, None)
        root = (S[some] / self.cfg.scale).sqrt()
        for tensors, start in (((self.A, self.A0), root[:, None] * V[some]), ((self.B, self.B0), U[:, some] * root)):
            for tensor in tensors:
                tensor.copy_(start)

    @classmethod
    def calibration_rows(cls, cfg: CorDAConfig) -> int:
        return cfg.rows

    def observe(self, x: Tensor) -> None:
        second = x.t() @ x
        self.seen = second if self.seen is None else self.seen + second

    def prepare(self, weight: Tensor) -> None:
        if self.seen is None or not (m := self.seen.diagonal().double().mean()) > 0:
            return  # nothing flowed into the site: every covariance is as good as the identity
        d, unit = self.cfg.damping, torch.eye(len(self.seen), dtype=torch.float64, device=m.device)
        C = (self.seen.double() / m + d * unit) / (1 + d)
        self.seen = None
        U, S, V = torch.linalg.svd(weight.double() @ C, full_matrices=False)
        self._start(U, S, torch.linalg.solve(C, V, left=False))

    def pair(self) -> tuple[Tensor, Tensor]:
        """B (d_out, 2r) and A (2r, d_in) of the same change as a plain LoRA; differences that half precision can hold."""
        return torch.cat([self.B - self.B0, self.B0], 1), torch.cat([self.A, self.A - self.A0])

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        B, A = self.pair()
        return self.cfg.scale * (B @ A)

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        B, A = self.pair()
        return self.cfg.scale * nn.functional.linear(nn.functional.linear(x, A), B)

    @classmethod
    def problem(cls, cfg: CorDAConfig, sites: list[Site]) -> str:
        """Fewer components than asked for, or inputs that are no vectors."""
        narrow = min(min(s.shape) for s in sites)
        if cfg.rank > narrow:
            return f"a weight has as many singular components as its narrowest side, here {narrow}; got rank {cfg.rank}."
        odd = next((s for s in sites if cfg.rows and s.kind not in ("linear", "conv1d")), None)
        return f"{odd.path} does not read vectors, which `rows` needs; set rows to 0 or choose other roles." if odd else ""

    @staticmethod
    def n_params(cfg: CorDAConfig, sites: list[Site]) -> int:
        return sum(cfg.rank * (s.d_in + s.d_out) for s in sites)
