"""A training's whole state between two steps, on disk, so that a paused or broken run goes on bitwise where it stood.

`checkpoint/step-<n>/` in the run folder holds `state.safetensors` and `state.json`; the JSON carries the sha256 of the other
file and of the RunSpec. A checkpoint appears whole or not at all, and one that does not fit is passed over for an older one.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core import failpoints
from workbench.core.durable import file_sha256, make_folder, remove, sync, write_whole
from workbench.core.run_spec import RunSpec

if TYPE_CHECKING:
    from torch import Tensor

FOLDER, STATE, TENSORS, EVENTS = "checkpoint", "state.json", "state.safetensors", "events.jsonl"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """What a training needs to go on.

    Attributes:
        plain: JSON values: place in the recipe's phases, counters, rates of the schedule, `offset` of events.jsonl.
        tensors: adapter, head, moments of the optimizer, state of the recipe and of the random generators.
    """

    plain: dict[str, Any]
    tensors: "dict[str, Tensor]"


def write(folder: Path, spec: RunSpec, step: int, plain: Mapping[str, Any], tensors: "Mapping[str, Tensor]", keep: int) -> None:
    """Store a checkpoint in a run folder; older ones beyond `keep` go.

    Raises:
        OSError: the disk is full; the older ones are still there.
    """
    from safetensors.torch import save_file

    home = folder / FOLDER
    make_folder(home)
    if (events := folder / EVENTS).exists():
        sync(events)  # a checkpoint names its length; a power cut must not leave it shorter

    def fill(work: Path) -> None:
        save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, work / TENSORS)
        facts = {"format": FORMAT, "spec": digest(spec), "sha256": file_sha256(work / TENSORS), **plain}
        (work / STATE).write_text(json.dumps(facts), encoding="utf-8")
        failpoints.reach("checkpoint.written")

    write_whole(home / f"step-{step:08d}", fill)
    failpoints.reach("checkpoint.renamed")
    for old in _all(folder)[: -max(keep, 1)]:
        remove(old)


def _all(folder: Path) -> list[Path]:
    """The checkpoints of a run folder, the oldest first."""
    return sorted(path for path in (folder / FOLDER).glob("step-*") if path.is_dir())


def clear(folder: Path) -> None:
    """Forget the checkpoints of a run folder."""
    with contextlib.suppress(OSError):
        remove(folder / FOLDER)


def find(folder: Path, spec: RunSpec) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that is whole and of this run: (its folder, its JSON); None without one. Imports no torch."""
    for path in reversed(_all(folder)):
        try:
            plain = json.loads((path / STATE).read_bytes())
            whole = file_sha256(path / TENSORS) == plain["sha256"]
            if whole and (plain["format"], plain["spec"]) == (FORMAT, digest(spec)):
                return path, plain
        except (OSError, ValueError, KeyError, TypeError):
            continue  # half-written, damaged or of another version: an older one may do
    return None


def read(folder: Path, spec: RunSpec) -> Checkpoint | None:
    """The newest checkpoint of a run folder that can be used, or None."""
    from safetensors.torch import load_file

    found = find(folder, spec)
    return None if found is None else Checkpoint(found[1], load_file(found[0] / TENSORS))


def digest(spec: RunSpec) -> str:
    """Names a RunSpec."""
    return hashlib.sha256(json.dumps(spec.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
