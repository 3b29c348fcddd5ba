"""Where jobs run: one slot per GPU, else one for the processor, and one for short work beside training. Imports no torch.

A slot takes one job at a time; a GPU's takes several trainings where each of them asked for it and their planned peaks fit.
"""

import math
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from workbench.jobs import sharing
from workbench.jobs.store import SHORT_KINDS


@dataclass(frozen=True)
class Slot:
    """One place for a job.

    Attributes:
        name: `gpu:<id>`, `cpu:0` or `short`; several with commas for a training over several GPUs.
        kinds: job kinds it takes.
        gpu: id for CUDA_VISIBLE_DEVICES, several with commas; None = no GPU.
        threads: processor threads of its worker.
        room: bytes of the GPU's memory that trainings may share; None where there is nothing to share.
    """

    name: str
    kinds: tuple[str, ...]
    gpu: str | None
    threads: int
    room: int | None = None

    def part(self) -> "Slot":
        """The same slot as a training sees it that may have to share it: with its part of the processor's threads."""
        return replace(self, threads=max(1, self.threads // sharing.MOST)) if self.room is not None else self

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
            "PYTHONFAULTHANDLER": "1",  # a crash in native code leaves its place in the log
        }


def together(parts: Sequence[Slot]) -> Slot:
    """Several free GPUs as the one slot of a training over them."""
    ids = ",".join(part.gpu or "" for part in parts)
    return Slot(",".join(part.name for part in parts), parts[0].kinds, ids, sum(part.threads for part in parts))


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


def room(gpu: str) -> int | None:
    """Bytes of a GPU's memory in all; None where its driver does not say."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "-i", gpu, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        return int(said.split()[0]) << 20  # it counts in MiB
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):  # e.g. "[N/A]": then it is not shared
        return None


def layout(rooms: bool = False) -> list[Slot]:
    """All slots of this machine, the training ones first; with `rooms` each GPU is asked for its memory."""
    found = gpus()
    threads = max(1, cores() // max(1, len(found)))
    if not found:
        training = [Slot("cpu:0", ("train",), None, threads)]
    else:
        training = [Slot(f"gpu:{gpu}", ("train",), gpu, threads, room(gpu) if rooms else None) for gpu in found]
    return [*training, Slot("short", SHORT_KINDS, found[0] if found else None, threads)]
