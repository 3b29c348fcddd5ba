"""What a training costs: peak memory over the loaded model, and which precision is faster on this processor."""

import ctypes
import gc
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from workbench.core.paths import cache


class PeakMemory:
    """Peak memory between `start` and `stop`, above what was in use at `start`.

    On CUDA the allocator's peak (allocated bytes, the model included); on CPU the peak resident set over the set with the
    model (and a recipe's further models) loaded, from the kernel's own high-water mark, which is reset at the start.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.kind = "cuda_allocated" if device.startswith("cuda") else "cpu_rss_over_model"
        self._base: int | None = None
        self._resettable = False

    def start(self) -> "PeakMemory":
        """Begin to measure; a second start forgets the peak and keeps the base: each training of a process counts alike."""
        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(self.device)
            return self
        if self._base is not None:
            _trim()
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
            self._resettable = True
        except OSError:
            self.kind = "cpu_rss_end_over_model"  # no high-water mark to reset here: say so
        self._base = _status("VmRSS") if self._base is None else self._base
        return self

    def peak(self) -> int:
        """Bytes so far."""
        if self.device.startswith("cuda"):
            return int(torch.cuda.max_memory_allocated(self.device))
        return max(_status("VmHWM" if self._resettable else "VmRSS") - (self._base or 0), 0)


def _trim() -> None:
    """Hand freed memory back to the system, where the C library can; else an earlier training's would be this one's for free."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def gemm_seconds(
    dtype: torch.dtype, device: str = "cpu", repeats: int = 12, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median seconds of one (512, 384) x (384, 1536) product, by a clock."""
    gen = torch.Generator().manual_seed(0)  # its own: the run's numbers must not depend on whether this was measured
    a, b = (torch.randn(*shape, generator=gen).to(device, dtype) for shape in ((512, 384), (384, 1536)))
    times = []
    for _ in range(repeats):
        start = clock()
        a @ b
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(clock() - start)
    return sorted(times[2:])[(repeats - 2) // 2]


def faster_precision(device: str, threads: int) -> str:
    """`bf16` where its matrix product measures at least 1.5 times as fast as fp32, else `fp32`.

    The answer is measured once per device, thread count and torch version and then kept, so that equal runs stay equal.
    """
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"
    key = f"{name}|{threads}|{torch.__version__}"
    file = cache() / "precision.json"
    try:
        known: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        known = {}
    if key not in known:
        ratio = gemm_seconds(torch.float32, device) / gemm_seconds(torch.bfloat16, device)
        known[key] = {"fp32_over_bf16": round(ratio, 2), "choice": "bf16" if ratio >= 1.5 else "fp32"}
        work = file.with_suffix(f".{os.getpid()}.tmp")  # two runs may measure at the same time
        work.write_text(json.dumps(known, indent=1))
        work.replace(file)
    return str(known[key]["choice"])
