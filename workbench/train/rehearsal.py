"""A dry run: a few real optimizer steps of a run, measured and extrapolated; nothing of it is kept."""

import itertools
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.core.events import Reporter, Silent, Step, Stopped
from workbench.core.run_spec import Placed, RunSpec
from workbench.tasks.contract import Example
from workbench.train import batching
from workbench.train.search import Trial
from workbench.train.session import Session

TIMED = 3
STEPS = 1 + TIMED
"""The first step warms up, the others are timed; one of the batches is the longest of all."""


class _Rehearsal(Session):
    """A session that trains a few chosen batches in place of the run, and then stops."""

    def _train(self, rate: float, reporter: Reporter) -> Trial:
        rows, whole, said = self.examples["train"], self.steps, Silent()
        size, parts = self.spec.training.batch_size, self.spec.training.gradient_accumulation
        chosen = typical(rows, size, STEPS * parts)
        judged = sorted(self.examples["validation"], key=lambda e: -e.length)[: 2 * size]
        self.examples, self.steps = {**self.examples, "train": chosen, "validation": judged}, STEPS
        trial = super()._train(rate, said)
        stream = batching.forever(chosen, size, self.spec.seed)
        steps = [sum(padded(next(stream)) for _ in range(parts)) for _ in range(STEPS)]
        seconds = [event.seconds for event in said.events if isinstance(event, Step)]
        usual = parts * statistics.fmean(padded(batch) for batch in batching.epoch(rows, size, self.spec.seed, 0))
        per_step = usual * sum(seconds[1:]) / sum(steps[1:]) if seconds else 0.0
        costs = {name: trial.costs[name] for name in ("peak_memory_bytes", "memory_kind")}
        self.found = {**costs, "seconds_per_step": per_step, "train_seconds": per_step * whole, "precision": self.precision}
        raise Stopped("cancel")


def rehearse(spec: RunSpec, placed: Placed) -> dict[str, Any]:
    """Train a few steps of a run on batches of its own lengths.

    Args:
        spec: everything resolved.
        placed: device and threads.

    Returns:
        {peak_memory_bytes, memory_kind, seconds_per_step, train_seconds, precision}: the peak with the longest batch, and
        the seconds of the whole run as the timed steps, position for position, extrapolate.

    Raises:
        WorkbenchError: the run cannot be done; one sentence.
    """
    with tempfile.TemporaryDirectory(prefix="dry-run-") as folder:
        session = _Rehearsal(spec, Silent(), Path(folder), placed)
        try:
            session.run()
        except Stopped:
            return session.found
    raise AssertionError("a rehearsal ends by stopping")


def padded(batch: Sequence[Example]) -> int:
    """Positions of a batch, padding included."""
    return len(batch) * max(e.length for e in batch)


def typical(rows: Sequence[Example], size: int, count: int) -> list[Example]:
    """The rows of `count` batches of similar lengths: the longest batch, and others evenly from the short to the long."""
    ordered = sorted(rows, key=lambda e: e.length)
    batches = [ordered[end - size : end] for end in range(len(ordered), size - 1, -size)] or [ordered]  # the longest first
    rest = batches[1:]
    step = max(1.0, len(rest) / max(1, count - 1))
    others = [rest[int((i + 0.5) * step)] for i in range(count - 1) if int((i + 0.5) * step) < len(rest)]
    return list(itertools.chain(batches[0], *others))
