"""Whether a training fits on its device. Memory predictions are uncertain, so this warns; only weights alone can forbid."""

from workbench.core.errors import WorkbenchError
from workbench.plan.values import Machine, Plan, Room

PROCESS = 450_000_000
"""What a worker's libraries hold besides the model [measured: torch, transformers and peft imported]."""


def needed(plan: Plan, weights: int, machine: Machine) -> int | None:
    """Bytes of the whole training on its device: on CUDA the predicted peak holds the model already.

    Args:
        plan: the prediction.
        weights: bytes of the base model as loaded.
        machine: where it will run.
    """
    peak = plan.predicted()["peak_memory_bytes"]
    if peak is None:
        return None
    return int(peak) if machine.device == "cuda" else int(peak) + weights - plan.memory.get("weights", 0) + PROCESS


def fits(plan: Plan, weights: int, machine: Machine, room: Room) -> tuple[bool | None, str]:
    """(whether it fits, one sentence when it may not); None where that is unknown."""
    needs = needed(plan, weights, machine)
    if needs is None or room.free is None:
        return None, ""
    if needs <= room.free:
        return True, ""
    where = "the GPU" if machine.device == "cuda" else "this machine"
    return False, (
        f"about {_size(needs)} of memory must be free for it, {_size(weights)} of that for the base model's weights; "
        f"{where} has {_size(room.free)} free of {_size(room.total or room.free)}: use a smaller batch_size or max_length."
    )


def check_weights(weights: int, machine: Machine, room: Room) -> None:
    """Refuse a base model whose weights alone exceed the whole device.

    Raises:
        WorkbenchError: they do.
    """
    if room.total is not None and weights > room.total:
        where = "the GPU" if machine.device == "cuda" else "this machine"
        raise WorkbenchError(
            f"the base model's weights must fit into memory; they take {_size(weights)} and {where} has {_size(room.total)}: "
            "choose a smaller base model."
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
