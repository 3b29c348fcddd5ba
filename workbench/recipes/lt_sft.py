"""LT-SFT: lottery-ticket sparse fine-tuning trains everything once, keeps the places that moved most, and trains those again.

    phase 1: theta1 = train(theta0)          phase 2: theta2 = train(theta0), only where |theta1 - theta0| is among the K largest
    phi = theta2 - theta0, at most K entries differ from zero, K = keep * (maskable scalars)

Use it on a method that trains base tensors (`full`, `bitfit`, ...). One threshold holds for all maskable tensors together;
norms are never maskable and stay frozen. Masked entries are put back after each update, so decoupled weight decay and
momentum cannot move them; they stay bitwise at theta0. The head trains in both phases and keeps its values between them.
Options: `random` draws the K places instead (the paper's baseline); `l1` adds (l1/N) sum |theta - theta0|.

Deviates from the paper: both phases share the run's optimizer steps (`search_share` of them search), so that a run costs
what any other run of the experiment costs.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from workbench.core.errors import WorkbenchError
from workbench.core.types import Config, Paper
from workbench.recipes.contract import Models, Phase, Recipe
from workbench.tasks.contract import Batch


class LtSftConfig(Config):
    """Options of lottery-ticket sparse fine-tuning."""

    keep: float = Field(0.02, gt=0, le=1, description="Share K/N of the maskable scalars that is trained in the end.")
    search_share: float = Field(0.5, gt=0, lt=1, description="Share of the steps that look for the places (phase 1).")
    l1: float = Field(0.0, ge=0, le=1000, description="Weight of the mean distance from the base in the loss.")
    random: bool = Field(False, description="Draw the places at random instead; the paper's baseline.")


class LtSft(Recipe):
    """See the module's docstring."""

    Config = LtSftConfig
    paper = Paper("Ansell et al., 2022", "https://arxiv.org/abs/2110.07560", 43)
    takes_init = False

    def __init__(self, cfg: LtSftConfig, models: Models, seed: int) -> None:
        super().__init__(cfg, models, seed)
        if (sentence := self.problem(cfg, models.adapter.key, bool(models.adapter.chosen))) is not None:
            raise WorkbenchError(sentence)
        norms = {s.path for s in models.adapters.sites if s.role == "norms"}
        found = models.adapter.originals()
        self.base = {n: (original.detach(), own) for n, (original, own, _) in found.items() if n.rpartition(".")[0] not in norms}
        if not self.base:
            raise WorkbenchError(f"the recipe lt_sft keeps norms frozen; {models.adapter.key} trains no other base tensors here.")
        for name, (_, own, _) in found.items():
            own.requires_grad_(name in self.base)
        self.masks: dict[str, Tensor] = {}

    def phases(self, steps: int) -> list[Phase]:
        if steps < 2:
            raise WorkbenchError(f"lt_sft needs at least 2 optimizer steps, one per phase; this run has {steps}.")
        search = min(max(round(steps * self.cfg.search_share), 1), steps - 1)
        return [Phase("search", search), Phase("sparse", steps - search)]

    def step(self, batch: Batch) -> Tensor:
        loss = super().step(batch)
        if self.cfg.l1:
            total = sum(own.numel() for _, own in self.base.values())
            loss = loss + self.cfg.l1 / total * sum((own - base).abs().sum() for base, own in self.base.values())
        return loss

    @torch.no_grad()
    def between(self, done: Phase) -> None:
        """Choose the K places that moved most, and rewind."""
        gen = torch.Generator().manual_seed(self.seed)
        moved = {n: (own - base).abs().cpu() for n, (base, own) in self.base.items()}
        scores = {n: torch.rand(m.shape, generator=gen) for n, m in moved.items()} if self.cfg.random else moved
        flat = torch.cat([s.flatten() for s in scores.values()])
        chosen = torch.zeros(flat.numel(), dtype=torch.bool)
        chosen[flat.topk(self.count(self.cfg, 0, flat.numel())).indices] = True
        parts = chosen.split([s.numel() for s in scores.values()])
        for (name, (base, own)), part in zip(self.base.items(), parts, strict=True):
            self.masks[name] = part.view(own.shape).to(own.device)
            own.copy_(base)
            own.grad = None

    def before_update(self) -> None:
        for name, mask in self.masks.items():
            grad = self.base[name][1].grad
            if grad is not None:
                grad.mul_(mask)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        for name, mask in self.masks.items():
            base, own = self.base[name]
            own.copy_(torch.where(mask, own, base))

    def progress(self) -> dict[str, Tensor]:
        return self.masks

    def resume(self, tensors: dict[str, Tensor]) -> None:
        self.masks = {name: mask.to(self.base[name][1].device) for name, mask in tensors.items()}

    def trained(self) -> int | None:
        return sum(int(m.sum()) for m in self.masks.values())

    @classmethod
    def count(cls, cfg: Any, dense: int, maskable: int) -> int:
        """K, at least one place."""
        return max(int(cfg.keep * maskable), 1)

    @classmethod
    def problem(cls, cfg: Any, method: str, select: bool) -> str | None:
        return None if select else f"the recipe lt_sft needs a method that trains base tensors, e.g. full; {method} does not."
