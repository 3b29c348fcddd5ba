"""T-Few: learn to rank the choices of a question, not only to say the right one.

    L = L_LM + a L_UL + b L_LN          p: probability of a choice's token after the question and the choice's earlier tokens
    L_LM = mean of -log p over the tokens of the right choice
    L_UL = mean of -log(1 - p) over the tokens of all wrong choices (unlikelihood)
    L_LN = -log softmax(beta)[right]    beta (choices,): mean of log p over the tokens of each choice (length-normalised)

Each term is a mean over the rows of a batch. Use it on a task whose rows offer choices (multiple_choice) with any method; the
paper's is (IA)3, with Adafactor at 3e-3, batches of 8, 1,000 steps, linear decay and 6 % of warmup. Validation and test rank
the choices by beta. With a = b = 0 it is the standard recipe.

Deviates from the paper: L_LM and L_UL are means over each row's tokens first and then over the rows, not over all tokens of a
batch, so that long answers count no more; the optimizer is the workbench's AdamW; the vectors start from ones, without the
paper's pretraining on a mixture of tasks. 1 - p is kept above 1e-6.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.core.types import Config, Paper
from workbench.recipes.contract import Models, Recipe
from workbench.tasks.contract import Batch

SMALLEST = 1e-6
"""1 - p is at least this; there the gradient of L_UL ends."""


class TFewConfig(Config):
    """Options of T-Few's loss."""

    unlikelihood: float = Field(1.0, ge=0, le=100, description="Weight a of the unlikelihood of the wrong choices.")
    length_norm: float = Field(1.0, ge=0, le=100, description="Weight b of the ranking by length-normalised scores.")


class TFew(Recipe):
    """See the module's docstring."""

    Config = TFewConfig
    paper = Paper("Liu et al., 2022", "https://arxiv.org/abs/2205.05638", 2)
    needs = ("choices",)

    def __init__(self, cfg: TFewConfig, models: Models, seed: int) -> None:
        super().__init__(cfg, models, seed)
        if "choices" not in models.task.provides:
            raise WorkbenchError(
                f"the recipe tfew needs a task whose rows offer choices, multiple_choice; got {models.task.key}."
            )

    def loss(self, output: Any, batch: Batch) -> Tensor:
        total = super().loss(output, batch)
        ranks = self.models.task.ranks(output, batch)  # type: ignore[attr-defined]
        rows = len(batch.examples)
        if self.cfg.unlikelihood:
            wrong = ~ranks.right[ranks.choice]
            unlikely = -torch.log((-torch.expm1(ranks.log_p[wrong])).clamp(min=SMALLEST))
            total = total + self.cfg.unlikelihood * ranks.means(unlikely, ranks.row[ranks.choice[wrong]], rows).mean()
        if self.cfg.length_norm:
            scores, sizes = ranks.scores(), torch.bincount(ranks.row, minlength=rows).tolist()
            own = zip(scores.split(sizes), ranks.right.split(sizes), strict=True)
            total = total + self.cfg.length_norm * torch.stack([-nn.functional.log_softmax(s, 0)[r][0] for s, r in own]).mean()
        return total
