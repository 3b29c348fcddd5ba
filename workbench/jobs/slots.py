"""Where jobs run: one slot per GPU, else one for the processor, and one for short work beside training. Imports no torch."""

import math
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from workbench.jobs.store import SHORT_KINDS


@dataclass(frozen=True)
class Slot:
    """One place for one job at a time.

    Attributes:
        name: `gpu:<id>`, `cpu:0` or `short`.
        kinds: job kinds it takes.
        gpu: id for CUDA_VISIBLE_DEVICES; None = no GPU.
        threads: processor threads of its worker.
    """

    name: str
    kinds: tuple[str, ...]
    gpu: str | None
    threads: int

    def device(self, wanted: str = "auto") -> str:
        """`cuda` or `cpu`: what was asked for, or for `auto` what the slot has."""
        return wanted if wanted in ("cpu", "cuda") else "cuda" if self.gpu is not None else "cpu"

    def environment(self) -> dict[str, str]:
        """Variables its worker must see before torch is imported."""
        return {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": self.gpu if self.gpu is not None else "",
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
            "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads starve each other when anything else uses the cores
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
        }


def cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Processors this process may use: its affinity, and the container's share if that is smaller."""
    count = len(os.sched_getaffinity(0))
    try:
        share, period = quota.read_text().split()
    except (OSError, ValueError):
        return count
    return count if share == "max" else max(1, min(count, math.ceil(int(share) / int(period))))


def _installed() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        nodes = sorted(int(p.name.removeprefix("nvidia")) for p in Path("/dev").glob("nvidia[0-9]*"))
        return [str(node) for node in nodes]
    try:
        listing = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):  # a driver that does not answer is no GPU to train on
        return []
    return [str(i) for i, line in enumerate(x for x in listing.splitlines() if x.startswith("GPU "))]


def gpus() -> list[str]:
    """Ids of the GPUs we may use; an inherited CUDA_VISIBLE_DEVICES narrows them as CUDA itself would."""
    installed = _installed()
    inherited = os.environ.get("CUDA_VISIBLE_DEVICES")
    if inherited is None or not installed:
        return installed
    visible: list[str] = []
    for name in (part.strip() for part in inherited.split(",")):
        if not name or name.startswith("-") or (name.isdigit() and name not in installed):
            break  # CUDA hides everything from the first invalid id on
        visible.append(name)
    return visible


def layout() -> list[Slot]:
    """All slots of this machine, the training ones first."""
    found = gpus()
    threads = max(1, cores() // max(1, len(found)))
    if not found:
        training = [Slot("cpu:0", ("train",), None, threads)]
    else:
        training = [Slot(f"gpu:{gpu}", ("train",), gpu, threads) for gpu in found]
    return [*training, Slot("short", SHORT_KINDS, found[0] if found else None, threads)]
