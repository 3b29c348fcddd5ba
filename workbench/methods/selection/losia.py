"""LoSiA: one sub-matrix of every weight is trained at a time, and moves to where the loss is most sensitive.

    W' = W + D + E_X B E_Y^T      D: (d_out, d_in) = 0,  B: (p d_out, p d_in) = 0,  X, Y: rows and columns of B, drawn at first
    i = |w g - (w g)^2 / 2|       I <- b I + (1 - b) i,   U <- b U + (1 - b) |i - I|,   score = I U

Only B is trained. The blocks of the base take turns of T steps. In its turn a block also sees its full gradient g, and at the
end of it B is added to D and starts again at zero in the rows and columns with the largest sum of scores: the best of rows and
columns chosen apart, rows first, columns first. Adam's moments start anew and the rate climbs from zero over T steps. Outside
its turn a forward pass keeps a share p of its input and output. D can have full rank, and all of it merges into the weight.

Parameters per site: at most d_out d_in differ in the end; floor(p d_out) floor(p d_in) train at a time.

Deviates from the paper: the base stays beside D, so a forward pass makes a second product of the weight's size and the file holds
D densely; the output head is not among the sites (its p_o = 0); weight decay acts on B, not on the weight.
"""

from collections.abc import Iterable, Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.core.types import Paper, Placement, Site
from workbench.kernel.contract import Context, WeightPart


class LoSiAConfig(Placement):
    """Options of LoSiA."""

    share: float = Field(0.125, gt=0, le=1, description="Share p of the rows and of the columns that train at a time.")
    period: int = Field(100, ge=5, le=1_000_000, description="Steps T of a turn.")
    smooth: float = Field(0.85, ge=0, lt=1, description="Factor b of the running mean I and spread U of the importance.")


class Turns(nn.Module):
    """Number of every site's block in the order of turns."""

    def __init__(self, sites: list[Site]) -> None:
        super().__init__()
        blocks = sorted({(s.tower, s.stack, s.depth) for s in sites})
        self.of = {s.key: blocks.index((s.tower, s.stack, s.depth)) for s in sites}
        self.count = len(blocks)


class LoSiA(WeightPart):
    """See the module's docstring."""

    Config, tiny = LoSiAConfig, LoSiAConfig(share=0.25, period=6)
    roles = ("attn.q", "attn.k", "attn.v", "attn.out", "ffn.up", "ffn.gate", "ffn.down")
    paper = Paper("Wang et al., 2025", "https://arxiv.org/abs/2507.04487", 95)
    not_shared = "each would score its block by the gradients of its own rows"
    default_lr = (3e-3, "best of 1e-3, 3e-3 and 1e-2 on bundled/vit (validation, 76 steps); the paper: 3e-5 to 5e-5")

    def __init__(self, cfg: LoSiAConfig, site: Site, shared: Turns, gen: torch.Generator, weight: Tensor) -> None:
        super().__init__(cfg, site, shared, gen, weight)
        drawn = [torch.randperm(n, generator=gen)[: int(cfg.share * n)].sort().values for n in site.shape]
        self.rows, self.columns = nn.Buffer(drawn[0]), nn.Buffer(drawn[1])  # X and Y
        self.moved = nn.Buffer(torch.zeros_like(weight))  # D
        self.block = nn.Parameter(torch.zeros(len(self.rows), len(self.columns)))  # B
        self.probe: Tensor | None = None  # (d_out, d_in) zeros in the site's turn: its gradient is w g
        self.mean = self.spread = torch.zeros(())  # I and U, of the weight's shape in the turn
        self.step, self.warm, self.before = 0, cfg.period, self.block.detach()

    def delta(self, weight: Tensor, ctx: Context) -> Tensor:
        return self._with_block(self._seen(weight), self.block)

    def apply_to(self, y: Tensor | None, x: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        low = nn.functional.linear(x.index_select(-1, self.columns), self.block)
        return nn.functional.linear(x, self._seen(weight)).index_add(-1, self.rows, low)

    def _with_block(self, dense: Tensor, block: Tensor) -> Tensor:
        """A matrix (d_out, d_in) with the block added in rows X and columns Y."""
        return dense.index_put((self.rows[:, None], self.columns), block, accumulate=True)

    def _seen(self, weight: Tensor) -> Tensor:
        """D; in the site's turn with a term that is zero and whose gradient is w g."""
        if not (self.training and torch.is_grad_enabled() and self._turn(self.step)):
            return self.moved
        if self.probe is None:
            self.probe = torch.zeros_like(weight, requires_grad=True)
        return self.moved + (weight + self._with_block(self.moved, self.block.detach())) * self.probe

    def _turn(self, step: int) -> bool:
        """Whether the step after `step` steps lies in this site's turn."""
        return step // self.cfg.period % self.shared.count == self.shared.of[self.site.key]  # type: ignore[index, union-attr]

    @torch.no_grad()
    def on_step(self, step: int, steps: int) -> Iterable[nn.Parameter]:
        if not isinstance(self.block, nn.Parameter):
            raise WorkbenchError("losia moves what it trains and takes no modifier; leave modifiers out.")
        self.step, self.warm = step, self.warm + 1
        if self.warm <= self.cfg.period:  # the rate climbs: exactly that share of the step is taken
            self.block.copy_(self.before.lerp(self.block, self.warm / self.cfg.period))
        if self.probe is not None and self.probe.grad is not None:
            product, b = self.probe.grad, self.cfg.smooth  # w g
            now = (product - product.square() / 2).abs()
            self.mean = b * self.mean + (1 - b) * now
            self.spread = b * self.spread + (1 - b) * (now - self.mean).abs()
            self.probe.grad = None
        chosen = self.probe is not None and step % self.cfg.period == 0 and self._turn(step - 1)
        if chosen:
            self._move(self.mean * self.spread)
        self.before = self.block.clone()
        return [self.block] if chosen else ()

    def _move(self, score: Tensor) -> None:
        """B goes into D, and starts at zero where the scores (d_out, d_in) are largest; the turn is over."""
        self.moved.copy_(self._with_block(self.moved, self.block))
        for index, chosen in zip((self.rows, self.columns), best(score, *self.block.shape), strict=True):
            index.copy_(chosen)
        self.block.zero_()
        self.mean = self.spread = torch.zeros(())
        self.probe, self.warm = None, 0

    def progress(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "spread": self.spread, "warm": torch.tensor(self.warm)}

    def resume(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        self.step, self.warm, self.before = step, int(tensors["warm"]), self.block.detach().clone()
        self.mean, self.spread = (tensors[name].to(self.block.device) for name in ("mean", "spread"))

    def in_use(self) -> int:
        """Scalars of the weight that differ by now; before the first step those that are about to."""
        return int(self._with_block(self.moved, self.block.detach()).count_nonzero()) or self.block.numel()

    @classmethod
    def build_shared(cls, cfg: LoSiAConfig, sites: list[Site], gen: torch.Generator) -> Turns:
        return Turns(sites)

    @classmethod
    def counts_exactly(cls, cfg: LoSiAConfig) -> bool:
        return False

    @classmethod
    def problem(cls, cfg: LoSiAConfig, sites: list[Site]) -> str:
        side, said = min(min(s.shape) for s in sites), "share must be at least 1 / {}, one row of the narrowest site; got {}."
        return "" if cfg.share * side >= 1 else said.format(side, cfg.share)

    @staticmethod
    def n_params(cfg: LoSiAConfig, sites: list[Site]) -> int:
        return sum(s.d_out * s.d_in for s in sites)


def best(score: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Sorted rows and columns of the sub-matrix with the largest sum of scores among three greedy choices."""
    x, y = score.sum(1).topk(rows).indices, score.sum(0).topk(columns).indices
    choices = [(x, y), (x, score[x].sum(0).topk(columns).indices), (score[:, y].sum(1).topk(rows).indices, y)]
    found = max(choices, key=lambda choice: float(score[choice[0][:, None], choice[1]].sum()))
    return found[0].sort().values, found[1].sort().values
