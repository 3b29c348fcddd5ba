"""How fast this machine multiplies matrices: measured in a few milliseconds."""

import json
import os
from dataclasses import replace

import torch

from workbench.core.paths import cache
from workbench.evaluate.measure import faster_precision, gemm_seconds
from workbench.plan.values import Machine

PRODUCT = 2 * 512 * 384 * 1536  # operations of the product that `gemm_seconds` times
_best: dict[str, float] = {}


def machine(device: str, threads: int, precision: str) -> Machine:
    """The machine a run will see; `auto` precision is decided as the training decides it."""
    device = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device
    chosen = faster_precision(device, threads) if precision == "auto" else precision
    return Machine(device, threads, chosen)  # type: ignore[arg-type]


def gemm_flops(machine: Machine) -> float:
    """Floating point operations per second of a matrix product on this machine, at its precision and thread count.

    Measured at each first use in a process; the best ever seen counts, because a busy neighbour only makes it slower.
    """
    name = torch.cuda.get_device_name() if machine.device == "cuda" else f"cpu x{machine.threads}"
    key = f"{name}, {machine.precision}, torch {torch.__version__}"
    if key not in _best:
        path = cache() / "gemm.json"
        try:
            known = json.loads(path.read_text())
        except (OSError, ValueError):
            known = {}
        alone = replace(machine, threads=1)  # on a busy machine several threads wait for each other and look slower than one
        _best[key] = max(known.get(key, 0.0), _measured(machine), _measured(alone))
        work = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        work.write_text(json.dumps({**known, key: _best[key]}, indent=1))
        work.replace(path)
    return _best[key]


def _measured(machine: Machine) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(machine.threads)
    try:
        dtype = torch.bfloat16 if machine.precision == "bf16" else torch.float32
        return PRODUCT / gemm_seconds(dtype, machine.device)
    finally:
        torch.set_num_threads(before)
