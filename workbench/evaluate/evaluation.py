"""Predictions and metrics of one split, and their file."""

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.data.table import entry_of
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
    entries: Sequence[str] = (),
) -> tuple[list[Prediction], dict[str, float]]:
    """Predict every example in eval mode.

    Args:
        task, host: the task and its host with the adapters as they are switched.
        examples: encoded rows.
        batch_size: examples per forward pass.
        device: where the host is.
        casting: autocast context of the training, nothing by default.
        after_batch: called after every batch, e.g. to notice a cancel.
        entries: ids of the data entries where there are several.

    Returns:
        Predictions in the order of `examples`, and the metrics over them; with several entries also the headline metric of
        each entry's own rows, as `<metric>/<id>`.
    """
    was_training = host.training
    host.eval()
    found: dict[int, Prediction] = {}
    try:
        for group in by_length(examples, batch_size):
            batch = task.batch(group).to(device)
            with casting():
                output = forward(host, batch)
                found |= {p.id: p for p in task.predictions(host, output, batch)}
            after_batch()
    finally:
        host.train(was_training)
    ordered = [found[e.id] for e in examples]
    return ordered, task.metrics(ordered) | _by_entry(task, ordered, entries)


def _by_entry(task: Task, predictions: Sequence[Prediction], entries: Sequence[str]) -> dict[str, float]:
    rows = {name: [p for p in predictions if entry_of(p.id) == number] for number, name in enumerate(entries)}
    return {f"{task.metric}/{name}": task.metrics(own)[task.metric] for name, own in rows.items() if own}


def write(predictions: Sequence[Prediction], split: str, folder: Path, entries: Sequence[str] = ()) -> Path:
    """Write predictions.parquet into `folder`; predictions.csv where pyarrow is not installed.

    Args:
        predictions: one row each.
        split: goes into every row.
        folder: an existing folder.
        entries: ids of the data entries where there are several; each row's then stands in the column `task`.

    Returns:
        The file's path.
    """
    rows = [(p.id, split, p.label, p.prediction, p.score, p.loss, p.weight) for p in predictions]
    columns = COLUMNS
    if entries:
        columns = (*COLUMNS, "task")
        rows = [(*row, entries[entry_of(p.id)]) for row, p in zip(rows, predictions)]
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        path = folder / "predictions.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *rows])
        return path
    path = folder / "predictions.parquet"
    table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(columns)})
    work = path.with_suffix(".tmp")
    pq.write_table(table, work)
    work.replace(path)
    return path
