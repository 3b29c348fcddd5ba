"""Before training, an adapter's parts may look at what the bare base feeds their sites, and start from it."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from workbench.kernel import attach
from workbench.kernel.adapter import Adapter
from workbench.kernel.contract import Part, WeightPart
from workbench.kernel.host import Adapters


@torch.no_grad()
def calibrate(adapters: Adapters, adapter: Adapter, passes: Iterable[Callable[[], Any]]) -> None:
    """Let every part observe its site's inputs in forward passes without any adapter, then prepare its tensors.

    Args:
        adapters, adapter: the host's adapters, and the fresh one among them.
        passes: calls that run the host on one batch each.
    """
    host, parts = adapters.host, [part for _, part in adapter.named_parts()]
    training = host.training
    host.eval()
    try:
        with adapters.only(), ExitStack() as stack:
            for part in parts:
                module = host.get_submodule(part.site.path)
                stack.enter_context(attach.shown(module, partial(_show, adapters, part)))
            for run in passes:
                run()
            for part in parts:
                module = host.get_submodule(part.site.path)
                part.prepare(attach.matrix(module, part.site) if isinstance(part, WeightPart) else None)
    finally:
        host.train(training)


def _show(adapters: Adapters, part: Part, x: Tensor) -> None:
    """x (batch, tokens, d_in) or (n, d_in) to the part, rows of padding left out."""
    mask = adapters.ctx.get("mask")
    real = isinstance(mask, Tensor) and mask.shape == x.shape[:-1]
    part.observe((x[mask.bool()] if real else x.flatten(0, -2)).float())
