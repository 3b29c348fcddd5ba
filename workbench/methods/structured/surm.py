"""SURM: the change is a structured matrix of unrestricted rank, given by a few vectors and applied by fast transforms.

    W' = W + s M      C(c)[i, j] = c[(i - j) mod n],   T(t)[i, j] = t[|i - j|],   n = max(d_in, d_out)
    circulant:  M = C(b * a)                     a, b: (n,);  a ~ N(0, 1), b = 0
    toeplitz:   M = T(b) T(a)                    a, b: (n,);  a ~ N(0, 0.02^2), b = 0
    ldr:        M = sum_{i<=k} C(b_i) S(a_i)     a, b: (k, n);  a ~ N(0, 0.02^2), b = 0;  S is C with a minus above the diagonal
    kronecker:  M = (1 / r) B (x) A              A: (r, d_in / r) ~ U(-1 / sqrt(d_in / r), ..),  B: (d_out / r, r) = 0
    bottleneck-adapter form:  y' = y + s (f(M y) + h),   h: (d,) = 0,  f = gelu

All but the Kronecker product are applied in O(n log n) by Fourier transforms and can have full rank. The start is the base.
`position: weight` stands where LoRA stands and merges, `position: output` where a bottleneck adapter stands. Of a weight that
is not square the upper left (d_out, d_in) of M is used.

Parameters per site: circulant and toeplitz 2 n, ldr 2 k n, kronecker d_in + d_out; + d_out in the form after a sublayer.

Deviates from the paper: the initial values are those of the released code; rectangular weights are padded, there left out.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, Placement, Preset, Site
from workbench.kernel.contract import ActivationPart, Composite, Context, Slot, WeightPart

SPREAD = {"circulant": 1.0, "toeplitz": 0.02, "ldr": 0.02}
WHERE = {"weight": ("attn.q", "attn.k", "attn.v"), "output": ("attn.block", "ffn.block")}


class SURMConfig(Placement):
    """Options of SURM."""

    structure: Literal["circulant", "toeplitz", "ldr", "kronecker"] = Field("circulant", description="Kind of the matrix M.")
    position: Literal["weight", "output"] = Field("weight", description="Add to a weight, or to a sublayer's output.")
    terms: int = Field(1, ge=1, le=64, description="Number k of products in structure ldr.")
    inner: int = Field(16, ge=1, le=1024, description="Side r in structure kronecker; it must divide both widths of every site.")
    scale: float = Field(1.0, gt=0, le=1000, description="Factor s on the change.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of M while training.")


class Structured(nn.Module):
    """The matrix M (d_out, d_in): x (..., d_in) -> M x (..., d_out) in fp32, never built."""

    def __init__(self, cfg: SURMConfig, site: Site, gen: torch.Generator) -> None:
        super().__init__()
        self.cfg, self.d_out, self.n = cfg, site.d_out, max(site.shape)
        if cfg.structure == "kronecker":
            self.a = nn.Parameter(
                nn.init.kaiming_uniform_(torch.empty(cfg.inner, site.d_in // cfg.inner), a=math.sqrt(5), generator=gen)
            )
            self.b = nn.Parameter(torch.zeros(site.d_out // cfg.inner, cfg.inner))
            return
        shape = (cfg.terms, self.n) if cfg.structure == "ldr" else (self.n,)
        self.a = nn.Parameter(SPREAD[cfg.structure] * torch.randn(shape, generator=gen))
        self.b = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, f"_{self.cfg.structure}")(x.float())[..., : self.d_out]  # bf16 has no Fourier transform

    def _circulant(self, x: Tensor) -> Tensor:
        return _cyclic(self.a * self.b, x, self.n)

    def _toeplitz(self, x: Tensor) -> Tensor:
        for t in (self.a, self.b):  # a symmetric Toeplitz matrix is the corner of a circulant one of twice the size
            x = _cyclic(torch.cat([t, t.new_zeros(1), t[1:].flip(0)]), x, 2 * self.n)[..., : self.n]
        return x

    def _ldr(self, x: Tensor) -> Tensor:
        long = _cyclic(self.a, x[..., None, :], 2 * self.n)  # (..., k, 2 n): the plain convolution
        skew = long[..., : self.n] - long[..., self.n :]
        return _cyclic(self.b, skew, self.n).sum(-2)

    def _kronecker(self, x: Tensor) -> Tensor:
        grid = x.unflatten(-1, self.a.shape)  # (B (x) A) x = B X A^T with X (r, d_in / r)
        return (self.b @ (grid @ self.a.t())).flatten(-2) / self.cfg.inner


def _cyclic(kernel: Tensor, x: Tensor, n: int) -> Tensor:
    """The cyclic convolution of length n along the last axis, both padded with zeros."""
    return torch.fft.irfft(torch.fft.rfft(kernel, n) * torch.fft.rfft(x, n), n)


class WeightFormPart(WeightPart):
    """M added to a weight."""

    reads_weight = False

    def __init__(self, cfg: SURMConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.M = Structured(cfg, site, gen)

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        return self.cfg.scale * self.M(torch.eye(self.site.d_in, device=weight.device)).t()

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        return self.cfg.scale * self.M(nn.functional.dropout(x, self.cfg.dropout, self.training))


class OutputFormPart(ActivationPart):
    """f(M y) + h added to a sublayer's output y."""

    def __init__(self, cfg: SURMConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor | None) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.M = Structured(cfg, site, gen)
        self.h = nn.Parameter(torch.zeros(site.d_out))

    def edit(self, h: Tensor, x: Tensor, ctx: Context) -> Tensor:
        inner = nn.functional.gelu(self.M(nn.functional.dropout(h, self.cfg.dropout, self.training)))
        return h + self.cfg.scale * (inner + self.h)


class SURM(Composite):
    """See the module's docstring."""

    Config, tiny = SURMConfig, SURMConfig(inner=8)
    paper = Paper("Sehanobish et al., 2024", "https://arxiv.org/abs/2406.17740", 73)
    default_lr = (6e-3, "best of 7e-4, 2e-3 and 6e-3 on bundled/minilm (validation, 63 steps); the paper: 2e-3 on GLUE")
    not_mergeable = "position output adds a non-linear function of the activations, which no single weight equals"
    presets = {
        "surm_toeplitz": Preset({"structure": "toeplitz"}, "SURM with a product of two symmetric Toeplitz matrices."),
        "surm_ldr": Preset({"structure": "ldr"}, "SURM of low displacement rank: circulant times skew-circulant."),
        "surm_kronecker": Preset({"structure": "kronecker"}, "SURM with a Kronecker product."),
        "surm_adapter": Preset({"position": "output"}, "SURM in the place of a bottleneck adapter."),
    }

    @classmethod
    def parts(cls, cfg: SURMConfig) -> list[Slot]:
        return [Slot(WeightFormPart if cfg.position == "weight" else OutputFormPart, WHERE[cfg.position])]

    @classmethod
    def mergeable(cls, cfg: SURMConfig) -> bool:
        return cfg.position == "weight"

    @classmethod
    def problem(cls, cfg: SURMConfig, sites: list[Site]) -> str:
        for site in sites if cfg.structure == "kronecker" else []:
            if site.d_in % cfg.inner or site.d_out % cfg.inner:
                return f"inner of surm must divide both widths of {site.path}, {site.d_out} and {site.d_in}; got {cfg.inner}."
        return ""

    @staticmethod
    def n_params(cfg: SURMConfig, sites: list[Site]) -> int:
        vectors = 2 * (cfg.terms if cfg.structure == "ldr" else 1)
        widths = (sum(s.shape) if cfg.structure == "kronecker" else vectors * max(s.shape) for s in sites)
        return sum(widths) + (cfg.position == "output") * sum(s.d_out for s in sites)
