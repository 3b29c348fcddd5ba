"""Distillation: learn from a teacher's softened predictions beside the true answers.

    L = (1 - w) CE(y, z_s) + w T^2 KL( softmax(z_t / T) || softmax(z_s / T) )

z_s (student, trains) and z_t (teacher, frozen) are the logits that the task's loss counts: over the classes, or over the
vocabulary at every scored token; both terms are means over the examples. The teacher is a run on any base model of the same
task with the same labels in the same order, which reads the texts with its own tokenizer; for causal language modelling also
a plain base model, and its vocabulary must be the student's. It runs in fp32, in eval mode, without gradients, and never
changes. Validation and test judge the student alone.

The teacher is loaded before the training is measured: on a processor the peak memory, which is growth over the loaded models,
holds the teacher's activations but not its weights; on CUDA it holds both. Its forward pass counts in the training seconds.

Deviates from the paper: the mean is over a batch's examples, not over a transfer set without labels.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from workbench.core.errors import WorkbenchError
from workbench.core.types import Config, Paper
from workbench.recipes.contract import ModelName, Models, Recipe
from workbench.tasks.contract import Batch


class DistillationConfig(Config):
    """Options of distillation."""

    teacher: ModelName = Field(description="An entry of models:, or a run (id, job number, unique beginning) or adapter folder.")
    weight: float = Field(0.5, ge=0, le=1, description="Weight w of the teacher's term; 1 - w that of the true answers.")
    temperature: float = Field(2.0, gt=0, le=100, description="Temperature T that softens both distributions.")


class Distillation(Recipe):
    """See the module's docstring."""

    Config = DistillationConfig
    paper = Paper("Hinton et al., 2015", "https://arxiv.org/abs/1503.02531")
    others = ("teacher",)

    def __init__(self, cfg: DistillationConfig, models: Models, seed: int) -> None:
        super().__init__(cfg, models, seed)
        self.teacher = models.others[cfg.teacher]

    def loss(self, output: Any, batch: Batch) -> Tensor:
        return (1 - self.cfg.weight) * super().loss(output, batch) + self.cfg.weight * self.soft(output, batch)

    def soft(self, output: Any, batch: Batch) -> Tensor:
        """T^2 KL(teacher || student), the mean over the examples of each one's mean over its distributions."""
        mine, row = self.models.task.scored(output, batch)
        theirs, _ = self.teacher.task.scored(*self.teacher.output(batch))
        if mine.shape != theirs.shape:
            raise WorkbenchError(
                f"the teacher must score the same tokens as the student; it has {theirs.shape[0]} of {theirs.shape[1]} words, "
                f"the student {mine.shape[0]} of {mine.shape[1]}: choose a teacher with the same vocabulary."
            )
        t = self.cfg.temperature
        mine, theirs = (mine / t).log_softmax(-1), (theirs / t).log_softmax(-1)
        kl = functional.kl_div(mine, theirs, reduction="none", log_target=True).sum(-1)
        zero = torch.zeros(len(batch.targets), device=kl.device)
        count = zero.index_add(0, row, torch.ones_like(kl))
        return t * t * (zero.index_add(0, row, kl) / count.clamp(min=1)).mean()
