"""How fast this machine multiplies matrices: measured in a few milliseconds."""

import json
import os
import time
from pathlib import Path

import torch

from workbench.core.paths import cache
from workbench.evaluate.measure import faster_precision, gemm_seconds
from workbench.plan.values import Machine, Room

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
        _best[key] = max(known.get(key, 0.0), *(_measured(machine, threads) for threads in {1, machine.threads}))
        work = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        work.write_text(json.dumps({**known, key: _best[key]}, indent=1))
        work.replace(path)
    return _best[key]


def _measured(machine: Machine, threads: int) -> float:
    """The same, now. One thread is timed by its own clock, which stands still while a neighbour has the core."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        dtype = torch.bfloat16 if machine.precision == "bf16" else torch.float32
        alone = threads == 1 and machine.device == "cpu"
        return PRODUCT / gemm_seconds(dtype, machine.device, clock=time.thread_time if alone else time.perf_counter)
    finally:
        torch.set_num_threads(before)


def room(device: str) -> Room:
    """Free and total memory of a device, now; of the first GPU that this process may see, or of the processor's machine."""
    if device == "cuda":
        free, total = torch.cuda.mem_get_info(0)
        return Room(int(free), int(total))
    import psutil

    memory = psutil.virtual_memory()
    limit, used = _container()
    total = int(min(memory.total, limit))
    return Room(max(0, min(memory.available, total - used)), total)


def _container(folder: Path = Path("/sys/fs/cgroup")) -> tuple[float, int]:
    """(memory limit, memory in use that cannot be given back) of the container this runs in; no limit without one."""
    try:
        limit, used = int((folder / "memory.max").read_text()), int((folder / "memory.current").read_text())
        lines = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return float("inf"), 0
    return limit, max(0, used - int(lines.get("inactive_file", 0)))
