"""Training throughput beside `transformers.Trainer` + peft LoRA: `make throughput`, a few minutes, nothing else on the machine.

Same base bytes, same examples, batch size, learning rate, dtype (fp32), dropout and trainable tensors; rounds are
interleaved and the statistic is the median of the per-round ratios. Only the training itself is timed.
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from workbench.core.events import Silent
from workbench.core.spec import DataSpec, TrainingSpec
from workbench.data import load_table, resolve
from workbench.kernel.host import adapters_of
from workbench.kernel.registry import configure
from workbench.models.bundled import resolve_model
from workbench.recipes import Models
from workbench.recipes import configure as recipe_of
from workbench.tasks import find
from workbench.train.loop import Loop

ROWS, BATCH, ROUNDS, RATE, LENGTH = 640, 32, 5, 2e-3, 128


def ours(task, rows):
    """Seconds of our loop, and its mean loss."""
    host = task.host(0)
    head = task.head(host)
    adapters = adapters_of(host, head)
    adapter = adapters.attach("adapter", "lora", configure("lora", {"rank": 8}), 0)
    params = tuple(p for h in head for p in host.get_submodule(h).parameters())
    for p in params:
        p.requires_grad_(True)
    models = Models(host, adapters, adapter, task, params)
    cls, cfg = recipe_of(None)
    from contextlib import nullcontext

    said = Silent()
    loop = Loop(models, cls(cfg, models, 0), TrainingSpec(batch_size=BATCH), 0, RATE, said, "cpu", nullcontext, dict)
    start = time.perf_counter()
    loop.run(rows, -(-len(rows) // BATCH), 10**9)
    losses = [e.loss for e in said.events if hasattr(e, "loss")]
    return time.perf_counter() - start, statistics.mean(losses)


def theirs(task, rows, grouped):
    """Seconds of Trainer + peft on the same rows."""
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    host = task.host(0)
    model = get_peft_model(host, LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=["query", "value"]))
    data = [
        {
            "input_ids": e.fields["ids"],
            "token_type_ids": e.fields["types"],
            "attention_mask": [1] * e.length,
            "labels": e.fields["target"],
        }
        for e in rows
    ]
    strategy = {"train_sampling_strategy": "group_by_length"} if grouped else {}
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            learning_rate=RATE,
            weight_decay=0.01,
            warmup_steps=1,
            report_to="none",
            save_strategy="no",
            logging_steps=10**6,
            disable_tqdm=True,
            use_cpu=True,
            **strategy,
        )
        trainer = Trainer(model=model, args=settings, train_dataset=data, data_collator=DataCollatorWithPadding(task.tokenizer))
        start = time.perf_counter()
        loss = trainer.train().training_loss
        return time.perf_counter() - start, loss


def main():
    """Print one JSON object with the medians of the ratios (ours over theirs, in examples per second)."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    cls = find("text_classification")
    splits = load_table(resolve(DataSpec(source="bundled/docstrings", limit=ROWS)), cls.parts)
    task = cls(Path(resolve_model("bundled/minilm", None)), splits.labels, LENGTH)
    rows = task.encode(splits.train)
    contests = {
        "ours": lambda: ours(task, rows),
        "trainer": lambda: theirs(task, rows, False),
        "grouped": lambda: theirs(task, rows, True),
    }
    for run in contests.values():
        run()  # warm-up
    seconds = {name: [] for name in contests}
    for _ in range(ROUNDS):
        for name, run in contests.items():
            spent, loss = run()
            seconds[name].append(spent)
            print(f"{name}: {spent:.2f} s, {len(rows) / spent:.1f} examples/s, mean loss {loss:.3f}", flush=True)
    ratios = {name: [t / o for t, o in zip(seconds[name], seconds["ours"], strict=True)] for name in ("trainer", "grouped")}
    print(
        json.dumps(
            {
                name: {"median": round(statistics.median(r), 3), "min": round(min(r), 3), "max": round(max(r), 3)}
                for name, r in ratios.items()
            }
        )
    )


if __name__ == "__main__":
    main()
