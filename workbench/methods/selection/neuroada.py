"""NeuroAda: every output neuron gets a trained addition to a few of its own input connections.

    W' = W + D      D[i, I[i, j]] = theta[i, j]      theta: (d_out, k) = 0,  I: (d_out, k) = columns of the k largest |W[i, :]|
    y' = W' x + b = y + (sum_j theta[:, j] * x[I[:, j]])

The start is exactly the base, and the values merge into the weight. Every neuron has the same number of trained connections,
unlike one global mask. The columns are chosen once, without data, and stored with the adapter. The forward pass sums the k
chosen inputs of every neuron and never forms a matrix of the weight's size; gradient and optimizer state exist for the
d_out k values alone.

Parameters per site: k d_out.

Deviates from the paper: its ablation that chooses connections by gradient needs data before training and is left out.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, Placement, Preset, Site
from workbench.kernel.contract import Context, WeightPart


class NeuroAdaConfig(Placement):
    """Options of NeuroAda."""

    k: int = Field(20, ge=1, le=65536, description="Trained connections of every output neuron.")
    selection: Literal["magnitude", "reverse", "random"] = Field(
        "magnitude", description="Which connections: the largest |W| of the neuron, the smallest (reverse), or drawn at random."
    )


class NeuroAda(WeightPart):
    """See the module's docstring."""

    Config, tiny = NeuroAdaConfig, NeuroAdaConfig(k=4)
    roles = ("attn.q", "attn.k", "attn.v", "attn.out", "ffn.up", "ffn.gate", "ffn.down")
    paper = Paper("Zhang et al., 2025", "https://arxiv.org/abs/2510.18940", 54)
    default_lr = (1e-2, "best of 1e-3, 3e-3 and 1e-2 on bundled/minilm (validation, 63 steps); the paper: 7e-4 to 8e-3")
    presets = {"neuroada_1": Preset({"k": 1}, "NeuroAda with a single trained connection per neuron.")}
    reads_weight = False

    def __init__(self, cfg: NeuroAdaConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        score = torch.rand(site.shape, generator=gen).to(weight.device) if cfg.selection == "random" else weight.abs()
        self.register_buffer("index", score.topk(cfg.k, dim=1, largest=cfg.selection != "reverse").indices)  # (d_out, k)
        self.theta = nn.Parameter(torch.zeros(site.d_out, cfg.k))  # (d_out, k)

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        return torch.zeros_like(weight).scatter(1, self.index, self.theta)

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        """The chosen inputs summed per neuron: a bag of k rows of x^T (d_in, tokens), weighted by theta."""
        columns = x.reshape(-1, x.shape[-1]).t().to(self.theta.dtype).contiguous()
        bags = nn.functional.embedding_bag(self.index, columns, per_sample_weights=self.theta, mode="sum")  # (d_out, tokens)
        if bags.requires_grad:
            bags.register_hook(Tensor.contiguous)  # rows in one piece, here and above: five times faster on a CPU
        return bags.t().reshape(*x.shape[:-1], -1)

    @classmethod
    def problem(cls, cfg: NeuroAdaConfig, sites: list[Site]) -> str:
        """More connections than a neuron has."""
        narrow = min(sites, key=lambda s: s.d_in)
        if cfg.k <= narrow.d_in:
            return ""
        return f"k must be at most the number of inputs; {narrow.path} has {narrow.d_in}, k is {cfg.k}: choose a smaller k."

    @staticmethod
    def n_params(cfg: NeuroAdaConfig, sites: list[Site]) -> int:
        return sum(cfg.k * s.d_out for s in sites)
