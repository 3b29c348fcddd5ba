"""AdamW with the groups a method asks for, decay only on matrices, and a schedule."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from workbench.core.errors import WorkbenchError
from workbench.core.spec import TrainingSpec
from workbench.kernel.adapter import Adapter


def groups(adapter: Adapter, head: Sequence[nn.Parameter], lr: float, decay: float) -> list[dict[str, Any]]:
    """Optimizer groups: the adapter's own rates, the head at `lr`; vectors (biases, norms) are not decayed.

    Raises:
        WorkbenchError: the method's groups do not name every trainable tensor exactly once.
    """
    wanted = [*adapter.param_groups(lr), {"params": list(head), "lr": lr}]
    named = [id(p) for g in wanted for p in g["params"]]
    trainable = [id(p) for p in adapter.named_trainable().values()] + [id(p) for p in head]
    if sorted(named) != sorted(trainable):
        raise WorkbenchError(
            f"{adapter.key}.param_groups must name each of its {len(trainable)} trainable tensors once; it names {len(named)}."
        )
    split = []
    for group in wanted:
        for matrices in (True, False):
            params = [p for p in group["params"] if (p.dim() > 1) == matrices]
            if params:
                split.append({**group, "params": params, "weight_decay": group.get("weight_decay", decay) if matrices else 0.0})
    return split


def optimizer(groups: list[dict[str, Any]], training: TrainingSpec, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    """(AdamW, schedule) for `steps` optimizer steps."""
    from transformers import get_scheduler

    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    name = "constant_with_warmup" if training.scheduler == "constant" else training.scheduler
    return adamw, get_scheduler(name, adamw, num_warmup_steps=round(training.warmup * steps), num_training_steps=steps)
