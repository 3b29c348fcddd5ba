"""Hydra: one low-rank branch reads a layer's input, a second one reads the frozen layer's output.

    y = y0 + s (B_p A_p x + B_s A_s y0)      y0 = W x + b
    W' = W + s (B_p A_p + B_s A_s W)         b' = b + s B_s A_s b
    A_p: (r_p, d_in), A_s: (r_s, d_out) ~ U(-1/sqrt(n), 1/sqrt(n)) for n columns;  B_p: (d_out, r_p) = 0, B_s: (d_out, r_s) = 0

Both B start at zero, so the start is exactly the base. The parallel branch alone is LoRA; the sequential branch alone
(SeqLoRA) can only combine features that the base already has. Both are linear, so weight and bias merge. `bias` adds a
bias (zero at the start) to each of the four maps, as in the paper's vision models.

Parameters per site: r_p (d_in + d_out) + 2 r_s d_out, with bias + r_p + r_s + d_out per branch.

Deviates from the paper: dropout acts between A and B on what comes from x and W x, not on the biases' constant part, so that
the constant part can be added to the layer's bias; the expected value is the same.
"""

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.types import Paper, Placement, Preset, Site
from workbench.kernel.contract import Context, WeightPart


class HydraConfig(Placement):
    """Options of Hydra."""

    parallel_rank: int = Field(4, ge=0, le=1024, description="Rank of the branch that reads the input; 0 leaves it out.")
    sequential_rank: int = Field(8, ge=0, le=1024, description="Rank of the branch that reads the output; 0 leaves it out.")
    scale: float = Field(1.0, gt=0, le=1000, description="Factor s on what both branches add.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout between A and B while training.")
    bias: bool = Field(False, description="A bias on each of the four maps; needs layers that have a bias themselves.")


class Branch(nn.Module):
    """B A z for z (..., d_in), and the constant B a + b that its biases add."""

    def __init__(self, rank: int, d_in: int, d_out: int, bias: bool, dropout: float, gen: torch.Generator) -> None:
        super().__init__()
        self.A = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(rank, d_in), a=math.sqrt(5), generator=gen))  # (r, d_in)
        self.B = nn.Parameter(torch.zeros(d_out, rank))  # (d_out, r)
        self.a = nn.Parameter(torch.zeros(rank)) if bias else None
        self.b = nn.Parameter(torch.zeros(d_out)) if bias else None
        self.dropout = dropout

    def forward(self, z: Tensor) -> Tensor:
        low = nn.functional.linear(z, self.A)
        return nn.functional.linear(nn.functional.dropout(low, self.dropout, self.training), self.B)

    def constant(self) -> Tensor | float:
        """B a + b (d_out,), 0 without biases."""
        return 0.0 if self.a is None else nn.functional.linear(self.a, self.B, self.b)


class Hydra(WeightPart):
    """See the module's docstring."""

    Config, tiny = HydraConfig, HydraConfig(parallel_rank=2, sequential_rank=3)
    roles = ("ffn.down",)
    paper = Paper("Kim et al., 2023", "https://arxiv.org/abs/2309.06922", 13)
    default_lr = (1e-2, "best of 2e-3, 5e-3 and 1e-2 on bundled/minilm (validation, 63 steps); the paper: 5e-4 to 8e-4")
    presets = {
        "hydra_vision": Preset(
            {
                "parallel_rank": 2,
                "sequential_rank": 2,
                "scale": 0.1,
                "dropout": 0.2,
                "bias": True,
                "roles": ("attn.out", "ffn.down"),
            },
            "Hydra for vision: rank 2 and 2 with biases, at the attention's output and the second feed-forward layer.",
        ),
        "seqlora": Preset({"parallel_rank": 0}, "SeqLoRA: the sequential branch alone."),
    }
    reads_weight = False

    def __init__(self, cfg: HydraConfig, site: Site, shared: None, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        self.reads_output = cfg.sequential_rank > 0

        def branch(rank: int, d_in: int) -> Branch | None:
            return Branch(rank, d_in, site.d_out, cfg.bias, cfg.dropout, gen) if rank else None

        self.parallel = branch(cfg.parallel_rank, site.d_in)
        self.sequential = branch(cfg.sequential_rank, site.d_out)

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        change = torch.zeros_like(weight)
        if self.parallel is not None:
            change = change + self.parallel.B @ self.parallel.A
        if self.sequential is not None:
            change = change + self.sequential.B @ (self.sequential.A @ weight)
        return self.cfg.scale * change

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        branches = ((self.parallel, x), (self.sequential, y))
        added = [branch(z) for branch, z in branches if branch is not None]
        return self.cfg.scale * (added[0] if len(added) == 1 else added[0] + added[1])

    def delta_bias(self, bias: Tensor, weight: Tensor | None, ctx: Context) -> Tensor:
        """s (B_s A_s b, plus each branch's constant); the same while training and when merged."""
        moved = torch.zeros_like(bias)
        if self.sequential is not None:
            moved = moved + self.sequential.B @ (self.sequential.A @ bias) + self.sequential.constant()
        if self.parallel is not None:
            moved = moved + self.parallel.constant()
        return self.cfg.scale * moved

    @classmethod
    def problem(cls, cfg: HydraConfig, sites: list[Site]) -> str:
        """Nothing to train, or biases where the layer has none to merge them into."""
        if not cfg.parallel_rank and not cfg.sequential_rank:
            return "Hydra needs a branch: parallel_rank and sequential_rank are both 0; set one of them to at least 1."
        bare = next((s.path for s in sites if cfg.bias and not s.bias), "")
        return (
            bare and f"bias: true needs layers that have a bias themselves; {bare} has none: choose other roles or bias: false."
        )

    @staticmethod
    def n_params(cfg: HydraConfig, sites: list[Site]) -> int:
        ranks, branches = cfg.parallel_rank + cfg.sequential_rank, bool(cfg.parallel_rank) + bool(cfg.sequential_rank)
        return sum(
            cfg.parallel_rank * (s.d_in + s.d_out) + 2 * cfg.sequential_rank * s.d_out + cfg.bias * (ranks + branches * s.d_out)
            for s in sites
        )
