"""Which trainings may stand on one GPU together: those that asked for it and whose planned peaks fit. Standard library only."""

from collections.abc import Mapping, Sequence
from typing import Any

MOST = 4
"""Trainings on one GPU at once; each of them gets this part of the slot's processor threads."""
MARGIN = 1.3
"""Predicted peaks were off by at most 30 % over 74 measured trainings (`tests/bench/plan.py`)."""
CONTEXT = 600_000_000
"""What CUDA keeps for each process besides its tensors, in bytes; between 300 and 550 MB by card and driver."""


def need(planned_bytes: float) -> int:
    """Bytes to hold free for a training of this planned peak."""
    return int(planned_bytes * MARGIN) + CONTEXT


def fits(rows: Sequence[Mapping[str, Any]], room: int | None) -> bool:
    """Whether these jobs may use one slot at the same time.

    Args:
        rows: jobs with `exclusive`, `gpus` and `planned_bytes`; one whose peak is not known shares with nobody.
        room: bytes of the slot's memory; None where it is not known or not to be shared.
    """
    if len(rows) <= 1:
        return True
    if room is None or len(rows) > MOST or any(map(_alone, rows)):
        return False
    return sum(need(row["planned_bytes"]) for row in rows) <= room


def _alone(row: Mapping[str, Any]) -> bool:
    return bool(row["exclusive"]) or row["gpus"] > 1 or row["planned_bytes"] is None
