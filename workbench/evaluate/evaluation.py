"""Predictions and metrics of one split, and their file."""

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.kernel.host import Adapters
from workbench.tasks.contract import Batch, Example, Prediction, Task

COLUMNS = ("id", "split", "label", "prediction", "score", "loss", "weight")


def forward(host: nn.Module, batch: Batch) -> Any:
    """One forward pass with the batch's facts in the adapters' context."""
    adapters = getattr(host, "workbench", None)
    known = adapters.context(**batch.facts) if isinstance(adapters, Adapters) else nullcontext()
    with known:
        return host(**batch.inputs)


def by_length(examples: Sequence[Example], size: int) -> Iterator[list[Example]]:
    """Batches of similar lengths, longest first, so that memory peaks at the start."""
    ordered = sorted(examples, key=lambda e: (-e.length, e.id))
    return (list(ordered[i : i + size]) for i in range(0, len(ordered), size))


@torch.no_grad()
def evaluate(
    task: Task,
    host: nn.Module,
    examples: Sequence[Example],
    batch_size: int,
    device: str = "cpu",
    casting: Callable[[], AbstractContextManager] = nullcontext,
    after_batch: Callable[[], None] = lambda: None,
) -> tuple[list[Prediction], dict[str, float]]:
    """Predict every example in eval mode.

    Args:
        task, host: the task and its host with the adapters as they are switched.
        examples: encoded rows.
        batch_size: examples per forward pass.
        device: where the host is.
        casting: autocast context of the training, nothing by default.
        after_batch: called after every batch, e.g. to notice a cancel.

    Returns:
        Predictions in the order of `examples`, and the metrics over them.
    """
    was_training = host.training
    host.eval()
    found: dict[int, Prediction] = {}
    try:
        for group in by_length(examples, batch_size):
            batch = task.collate(group).to(device)
            with casting():
                output = forward(host, batch)
                found |= {p.id: p for p in task.predictions(host, output, batch)}
            after_batch()
    finally:
        host.train(was_training)
    ordered = [found[e.id] for e in examples]
    return ordered, task.metrics(ordered)


def write(predictions: Sequence[Prediction], split: str, folder: Path) -> Path:
    """Write predictions.parquet into `folder`; predictions.csv where pyarrow is not installed.

    Returns:
        The file's path.
    """
    rows = [(p.id, split, p.label, p.prediction, p.score, p.loss, p.weight) for p in predictions]
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        path = folder / "predictions.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        return path
    path = folder / "predictions.parquet"
    table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)})
    work = path.with_suffix(".tmp")
    pq.write_table(table, work)
    work.replace(path)
    return path
