"""Whether several processes can share the batches of one training; asked by the plan, and by the worker that starts them."""

import torch

from workbench.kernel.contract import Method
from workbench.recipes import Recipe


def problems(name: str, method: type[Method], recipe: type[Recipe], device: str, processes: int) -> tuple[str, ...]:
    """A sentence for each reason why so many processes cannot train this; none for one process.

    Args:
        name: the method's key.
        method: its class.
        recipe: the class of the run's recipe.
        device: `cpu`, or a device that each process needs for itself.
        processes: how many there shall be.
    """
    if processes == 1:
        return ()
    own = f"{name} cannot share its batches between processes: {method.not_shared}; leave training.processes out."
    found = (own if method.not_shared else None, recipe.unshared(), _too_few_gpus(device, processes))
    return tuple(sentence for sentence in found if sentence)


def _too_few_gpus(device: str, processes: int) -> str | None:
    have = torch.cuda.device_count()
    if device == "cpu" or processes <= have:
        return None
    return (
        f"{processes} processes need as many GPUs, and this run may use {have}; set training.processes to at most {have}, or run "
        "it with device: cpu."
    )
