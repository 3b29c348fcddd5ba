"""(IA)3: keys, values and inner feed-forward activations are rescaled by learned vectors.

    attn.k, attn.v:  y = l * (W x + b)      l: (d_out, 1) = 1      W' = diag(l) W,  b' = l * b
    ffn.down:        y = W (l * x) + b      l: (1, d_in) = 1       W' = W diag(l)

The start is exactly the base, and every change is a rescaling of rows or columns of a weight, so it merges. At ffn.down
the vector scales the input, which in a gated block equals scaling the up projection; all other roles scale their output.
In encoder-decoder models the cross-attention's keys and values have vectors of their own.

Parameters per site: d_out, at ffn.down d_in.
"""

import torch
from torch import Tensor, nn

from workbench.core.types import Paper, PeftTwin, Placement, Site
from workbench.kernel.contract import Context, WeightPart

INWARD = ("ffn.down",)
"""Roles whose input is scaled instead of the output."""


class IA3Config(Placement):
    """Options of (IA)3: only where (roles, depths)."""


class IA3(WeightPart):
    """See the module's docstring."""

    Config, tiny = IA3Config, IA3Config()
    roles = ("attn.k", "attn.v", "cross.k", "cross.v", "ffn.down")
    paper = Paper("Liu et al., 2022", "https://arxiv.org/abs/2205.05638", 2)
    default_lr = (2e-2, "better than 5e-3 on bundled/minilm (validation, 78 steps); the paper's 3e-3 is for T0-3B, Adafactor")
    peft = PeftTwin(
        "IA3",
        lambda cfg, sites: {"feedforward_modules": [s.path for s in sites if s.role in INWARD]},
        {"l": "ia3_l"},
    )

    def __init__(self, cfg: IA3Config, site: Site, shared: None, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.inward = site.role in INWARD
        self.reads_output, self.reads_weight = not self.inward, self.inward
        self.l = nn.Parameter(torch.ones((1, site.d_in) if self.inward else (site.d_out, 1)))

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        return (self.l - 1) * weight

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        change = self.l.flatten() - 1
        return nn.functional.linear(x * change, weight) if self.inward else y * change

    def delta_bias(self, bias: Tensor, weight: Tensor | None, ctx: Context) -> Tensor | None:
        return None if self.inward else (self.l[:, 0] - 1) * bias

    @staticmethod
    def n_params(cfg: IA3Config, sites: list[Site]) -> int:
        return sum(s.d_in if s.role in INWARD else s.d_out for s in sites)
