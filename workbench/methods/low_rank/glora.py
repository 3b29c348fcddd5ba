"""GLoRA: weight, bias and input of a layer are scaled and shifted, each path in a form of its own.

    W' = W + W * A + B        b' = b + b * D + E + W C          (* entry by entry)
    A, B: (d_out, d_in)       low_rank X_d X_u, vector X_d[:, 0] for every input, scalar X_d[0, 0], or none
    C: (d_in,)                low_rank X_d X_u, vector X_d[:, 0], or none
    D, E: (d_out,)            vector, scalar (its first entry), or none
    X_d: (n, r) = 0,  X_u: (r, m) ~ U(-sqrt(6 / (r + m)), sqrt(6 / (r + m))),  D = E = 0

The start is exactly the base. LoRA is B alone; BitFit, SSF and prompts are other choices. With `elastic` the forms given are the
largest, smaller ones are slices of the same tensors, and every step draws a form for each path of each site (432 combinations),
so that the recipe `search` can choose them layer by layer. The default places are LoRA's; the paper adapts all linear layers.

Parameters per site: 2 r (d_out + d_in) + r (d_in + 1) + 2 d_out in the largest forms; a vector counts its length, a scalar 1.

Deviates from the paper: the first three steps train the largest forms, and no step draws none for all paths of a site. On layers
without a bias C, D and E are left out, so that the adapter merges; `new_bias` adds E + W C there, as the official code does.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.core.types import Paper, PeftTwin, Placement, Preset, Site
from workbench.kernel.contract import Context, WeightPart
from workbench.kernel.elastic import Elastic

NAMES = ("none", "scalar", "vector", "low_rank")
FORMS = NONE, SCALAR, VECTOR, LOW_RANK = range(4)


class GLoRAConfig(Placement):
    """Options of GLoRA: the form of each path, the largest one where they are drawn."""

    rank: int = Field(4, ge=1, le=1024, description="Rank r of the low-rank forms.")
    scale_weight: Literal["low_rank", "vector", "scalar", "none"] = Field("low_rank", description="Form of A: W is scaled.")
    shift_weight: Literal["low_rank", "vector", "scalar", "none"] = Field("low_rank", description="Form of B: W is shifted.")
    prompt: Literal["low_rank", "vector", "none"] = Field("low_rank", description="Form of C: the input is shifted.")
    scale_bias: Literal["vector", "scalar", "none"] = Field("vector", description="Form of D: the bias is scaled.")
    shift_bias: Literal["vector", "scalar", "none"] = Field("vector", description="Form of E: the bias is shifted.")
    elastic: bool = Field(True, description="Draw a form up to the one given for every path, site and step.")
    new_bias: bool = Field(False, description="Add E + W C to layers without a bias too; such an adapter cannot be merged.")


def forms(cfg: GLoRAConfig, site: Site) -> tuple[int, ...]:
    """The largest forms of A, B, C, D, E at a site."""
    named = (cfg.scale_weight, cfg.shift_weight, cfg.prompt, cfg.scale_bias, cfg.shift_bias)
    a, b, c, d, e = (NAMES.index(name) for name in named)
    return (a, b, c, d, e) if site.bias else (a, b, c, NONE, e) if cfg.new_bias else (a, b, NONE, NONE, NONE)


def size(cfg: GLoRAConfig, site: Site, chosen: Sequence[int]) -> int:
    """Scalars of A, B, C, D, E in these forms."""
    (out, inner), r = site.shape, cfg.rank
    matrix, prompt, bias = (0, 1, out, r * (out + inner)), (0, 0, inner, r * (inner + 1)), (0, 1, out)
    return sum(table[form] for table, form in zip((matrix, matrix, prompt, bias, bias), chosen, strict=True))


def twin(cfg: GLoRAConfig, sites: list[Site]) -> dict[str, Any]:
    """peft's options for the same; it knows one set of forms for all sites, and biases only where the layer has one."""
    if cfg.elastic or any(s.kind != "linear" or forms(cfg, s) != (LOW_RANK,) * 3 + (VECTOR,) * 2 for s in sites):
        raise WorkbenchError("peft's GLORA here means the largest forms, elastic: false, on linear layers with a bias.")
    return {"r": cfg.rank, "config_A_B": "lora", "config_C": "lora", "config_D_E": "vector"}


class GLoRA(Elastic, WeightPart):
    """See the module's docstring."""

    Config, tiny = GLoRAConfig, GLoRAConfig(rank=2, roles=("attn.q", "attn.v", "ffn.up"))
    roles = ("attn.q", "attn.v")
    paper = Paper("Chavan et al., 2023", "https://arxiv.org/abs/2306.07967", 51)
    default_lr = (1e-2, "best of 2e-3, 5e-3 and 1e-2 on bundled/minilm (validation, 63 steps); the paper: 1e-4")
    presets = {"glora_fixed": Preset({"elastic": False}, "GLoRA without a supernet: every path keeps the form it is given.")}
    peft = PeftTwin(
        "GLORA", twin, {f"{p}{x}": f"glora_{p}.X{x}" for p in "ABC" for x in "du"} | {p: f"glora_{p}.X" for p in "DE"}
    )
    reads_output = True
    D: Tensor
    E: Tensor

    def __init__(self, cfg: GLoRAConfig, site: Site, shared: Any, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        largest = forms(cfg, site)
        for path, form, (n, m) in zip("ABC", largest, (site.shape, site.shape, (site.d_in, 1)), strict=False):
            if form:
                shape = 1 if form == SCALAR else n, cfg.rank if form == LOW_RANK else 1
                self.register_parameter(f"{path}d", nn.Parameter(torch.zeros(shape)))
            if form == LOW_RANK:
                up = nn.init.xavier_uniform_(torch.empty(cfg.rank, m), generator=gen)
                self.register_parameter(f"{path}u", nn.Parameter(up))
        for path, form in zip("DE", largest[3:], strict=True):
            self.register_parameter(path, nn.Parameter(torch.zeros((0, 1, site.d_out)[form])) if form else None)
        self.start()

    def choices(self) -> tuple[tuple[int, ...], ...]:
        known = (FORMS, FORMS, (NONE, VECTOR, LOW_RANK), FORMS[:3], FORMS[:3])
        both = zip(known, forms(self.cfg, self.site), strict=True)
        return tuple(tuple(f for f in some if f == most or (f < most and self.cfg.elastic)) for some, most in both)

    def size(self, choice: Sequence[int]) -> int:
        return size(self.cfg, self.site, choice)

    def _matrix(self, path: str, form: int) -> Tensor:
        """A or B as (d_out, d_in), (d_out, 1) or (1, 1); C as (d_in, 1)."""
        down = getattr(self, f"{path}d")
        return down @ getattr(self, f"{path}u") if form == LOW_RANK else down[: 1 if form == SCALAR else None, :1]

    def _shift(self, weight: Tensor, c: int, e: int) -> Tensor | float:
        """E + W C (d_out,)."""
        moved = self.E[: 1 if e == SCALAR else None] if e else 0.0
        return moved + (weight @ self._matrix("C", c))[:, 0] if c else moved

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        a, b, *_ = self.now()
        change = weight * self._matrix("A", a) if a else torch.zeros_like(weight)
        return change + self._matrix("B", b) if b else change

    def apply_to(self, y: Tensor, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        a, b, c, _, e = self.now()
        added = torch.zeros_like(y)
        if a:
            scale = self._matrix("A", a)
            added = added + (nn.functional.linear(x, weight * scale) if a == LOW_RANK else y * scale[:, 0])
        if b == LOW_RANK:
            added = added + nn.functional.linear(nn.functional.linear(x, self.Bu), self.Bd)
        elif b:
            added = added + x.sum(-1, keepdim=True) * self._matrix("B", b)[:, 0]
        return added if self.site.bias else added + self._shift(weight, c, e)

    def delta_bias(self, bias: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        _, _, c, d, e = self.now()
        moved = torch.zeros_like(bias) + self._shift(weight, c, e)
        return moved + bias * self.D[: 1 if d == SCALAR else None] if d else moved

    @classmethod
    def mergeable(cls, cfg: GLoRAConfig) -> bool:
        return not cfg.new_bias

    @classmethod
    def problem(cls, cfg: GLoRAConfig, sites: list[Site]) -> str:
        if wrong := [s.path for s in sites if s.kind not in ("linear", "conv1d")]:
            return f"glora changes linear layers; {wrong[0]} is none: choose other roles."
        return "" if cls.n_params(cfg, sites) else "glora needs a path; all forms are none here: choose one."

    @staticmethod
    def n_params(cfg: GLoRAConfig, sites: list[Site]) -> int:
        return sum(size(cfg, s, forms(cfg, s)) for s in sites)
