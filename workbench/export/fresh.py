"""Asking a fresh process: what an exported folder answers when somebody else loads it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from workbench.core.errors import WorkbenchError
from workbench.core.paths import ROOT, home
from workbench.kernel.state import read_tensors
from workbench.tasks import Batch

CHILD = Path(__file__).with_name("child.py")
SECONDS = 1800
PLAIN = ("peft", "merged")


def logits(request: dict[str, Any], batches: Sequence[Batch]) -> list[Tensor]:
    """Logits of some batches, computed by a new Python that loads the folder from disk.

    Args:
        request: {kind: peft|merged|bundle, folder, dtype} and, for peft, {base, auto, settings}.
        batches: rows; tensors travel as safetensors.

    Raises:
        WorkbenchError: the folder does not load there, with the last line of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="workbench-check-") as name:
        work = Path(name)
        rows = {f"{i}.input.{k}": v for i, b in enumerate(batches) for k, v in b.inputs.items()}
        rows |= {f"{i}.fact.{k}": v for i, b in enumerate(batches) for k, v in b.facts.items()}
        save_file({k: v.contiguous().clone() for k, v in rows.items()}, work / "rows.safetensors")
        job = {"rows": str(work / "rows.safetensors"), "out": str(work / "logits.safetensors"), "settings": {}, **request}
        (work / "request.json").write_text(json.dumps([job]), encoding="utf-8")
        said = _run(work / "request.json", work, request["kind"] in PLAIN)
        if request["kind"] in PLAIN and said.get("imported_workbench") is not False:
            raise WorkbenchError("the check must run without the workbench; the fresh process imported it.")
        found = read_answer(work / "logits.safetensors")
        return [found[str(i)] for i in range(len(batches))]


def read_answer(path: Path) -> dict[str, Tensor]:
    """The child's logits; NaN and infinity are an answer too, and a wrong one."""
    try:
        return read_tensors(path)
    except WorkbenchError:
        raise WorkbenchError("the exported model must give finite logits; in a fresh process it gives NaN or infinity.") from None


def _run(request: Path, work: Path, plain: bool) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(CHILD), str(request)], cwd=work, env=_environment(plain), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise WorkbenchError(
            f"the exported model must answer within {SECONDS // 60} minutes in a fresh process; it did not."
        ) from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = " ".join(lines[-1].split())[:240].rstrip(".") if lines else f"exit code {done.returncode}"
        raise WorkbenchError(f"the folder must load in a fresh process; it fails there: {reason}.")
    return json.loads(done.stdout.splitlines()[-1])


def _environment(plain: bool) -> dict[str, str]:
    """The caller's environment without the network and, for a plain child, without this project on the import path."""
    paths = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and Path(p).resolve() != ROOT]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths if plain else [str(ROOT), *paths]), "WORKBENCH_HOME": str(home())}
    env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    return env | {"OMP_NUM_THREADS": str(torch.get_num_threads())}


def distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> tuple[float, float]:
    """(largest, mean) absolute difference of two lists of logits; infinite where shapes differ."""
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        return float("inf"), float("inf")
    gaps = torch.cat([(a.double() - b.double()).abs().flatten() for a, b in zip(ours, theirs, strict=True)])
    return float(gaps.max()), float(gaps.mean())
