"""How far the plan's predictions are from real trainings: `make plan-bench`, about 15 minutes, nothing else on the machine.

Every entry is planned in this process and then trained for a few steps in a process of its own. A busy neighbour makes
training and matrix product slower alike, so each measured time is first scaled to the speed that the plan assumed.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from workbench.core.events import Silent, Step
from workbench.core.run_spec import Placed, RunSpec
from workbench.core.spec import parse_spec
from workbench.evaluate import measure
from workbench.jobs.slots import Slot
from workbench.plan import probe
from workbench.services.experiments import resolve
from workbench.train import run

ROOT = Path(__file__).resolve().parents[2]
STEPS = 6
TEXT = ("head_only", "norm_tuning", "lora", "dora", "ia3", "bottleneck", "prefix_tuning", "prompt_tuning", "loreft", "read_rnn",
        {"method": "vera", "rank": 64}, "oft", "full")  # fmt: skip
IMAGES = ("head_only", "norm_tuning", "lora", "dora", "ia3", "bottleneck", {"method": "vera", "rank": 64}, "read_rnn", "full")
FEW = ("head_only", "lora", "bottleneck", "read_rnn", "full")
OTHERS = ("bitfit_subset", "parallel_adapter", "adalora", "rslora", "miss", "p_tuning_v2", "full")
SWEEP = {  # name -> family and sizes; the number is about how many million parameters they have
    "bert-1m": ("bert", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}),
    "llama-2m": ("llama", {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 6, "intermediate_size": 512}),
    "bert-11m": ("bert", {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}),
    "llama-20m": ("llama", {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 1376}),
    "bert-5m": ("bert", {"hidden_size": 144, "num_hidden_layers": 5, "num_attention_heads": 6, "intermediate_size": 576}),
    "llama-8m": ("llama", {"hidden_size": 320, "num_hidden_layers": 5, "num_attention_heads": 5, "intermediate_size": 864}),
    "bert-60m": ("bert", {"hidden_size": 640, "num_hidden_layers": 8, "num_attention_heads": 10, "intermediate_size": 2560}),
}
CASES = (  # model, task, methods, batch, length, precision
    ("bundled/minilm", "text_classification", TEXT, 16, 128, "fp32"),
    ("bundled/minilm", "text_classification", FEW, 32, 32, "bf16"),
    ("bundled/minilm", "text_classification", FEW, 4, 256, "fp32"),
    ("bundled/lm", "causal_lm", TEXT, 16, 128, "fp32"),
    ("bundled/lm", "causal_lm", FEW, 8, 64, "bf16"),
    ("bundled/vit", "image_classification", IMAGES, 64, 128, "fp32"),
    ("bundled/vit", "image_classification", FEW, 16, 128, "bf16"),
    ("bert-1m", "text_classification", FEW, 16, 64, "fp32"),
    ("llama-2m", "causal_lm", FEW, 16, 128, "fp32"),
    ("bert-11m", "text_classification", FEW, 16, 128, "fp32"),
    ("llama-20m", "causal_lm", FEW, 8, 128, "bf16"),
    ("bert-60m", "text_classification", FEW, 8, 128, "fp32"),
)
HELD_OUT = (  # no constant was fitted on these
    ("bundled/minilm", "text_classification", OTHERS, 24, 96, "fp32"),
    ("bundled/lm", "causal_lm", OTHERS, 12, 96, "bf16"),
    ("bert-5m", "text_classification", OTHERS, 12, 96, "bf16"),
    ("llama-8m", "causal_lm", OTHERS, 12, 96, "fp32"),
)


def random_model(name, folder):
    """A model of the sweep with random weights and a bundled tokenizer; returns its folder."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

    from workbench.models.bundled import bundled_path

    family, sizes = SWEEP[name]
    tokenizer = AutoTokenizer.from_pretrained(bundled_path("minilm" if family == "bert" else "lm"))
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **sizes)
    maker = AutoModel if family == "bert" else AutoModelForCausalLM
    maker.from_config(config).save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)
    return folder / name


def tables(folder):
    """Two files of the same docstrings: with a label for classification, as plain text for language models."""
    from workbench.data.bundled import docstring_table

    table = docstring_table()
    rows = [(" ".join(t.split()), a) for t, a in zip(table["text"], table["label"], strict=True) if len(t) > 60]
    names = sorted({label for _, label in rows})[:2]
    rows = [row for row in rows if row[1] in names][:400]
    for name, wide in (("text_classification", True), ("causal_lm", False)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            write = csv.writer(file)
            write.writerows([("text", "label") if wide else ("text",), *(row if wide else row[:1] for row in rows)])


def experiment(case, folder):
    """The spec of one case: one pass of STEPS batches."""
    model, task, methods, batch, length, precision = case
    source = model if model.startswith("bundled/") else str(folder / model)
    data = "bundled/digits" if task == "image_classification" else str(folder / f"{task}.csv")
    nothing = ("head_only", "bitfit_subset") if task == "causal_lm" else ()  # no head, and the bundled language models no biases
    methods = [m for m in methods if m not in nothing]
    return {
        "name": "planned", "model": source, "task": task, "methods": methods, "baseline": False,
        "data": {"source": data, "limit": STEPS * batch, "test": 0.05, "validation": 0.05},
        "training": {"batch_size": batch, "max_length": length, "precision": precision},
    }  # fmt: skip


class Clock(Silent):
    """Notes the processor seconds of every step: a time slice that a neighbour took is not in them."""

    def __init__(self):
        super().__init__()
        self.steps, self.last = [], 0.0

    def emit(self, event):
        """A step lasts from the event before it to its own."""
        now = time.process_time()
        if isinstance(event, Step):
            self.steps.append(now - self.last)
        self.last = now


def speed(precision):
    """Operations of a matrix product per processor second, now."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return probe.PRODUCT / measure.gemm_seconds(dtype, repeats=22, clock=time.thread_time)


def child(spec, out):
    """Train one RunSpec and write what it took, and how fast matrix products were before and after."""
    torch.set_num_threads(1)
    spec, clock = RunSpec.model_validate_json(Path(spec).read_text()), Clock()
    speeds = [speed(spec.training.precision) for _ in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        result = run(spec, clock, Path(folder), Placed(threads=1))
    speeds += [speed(spec.training.precision) for _ in range(3)]
    Path(out).write_text(json.dumps({**result, "steps": clock.steps, "speeds": speeds}))


def one(run_spec, folder):
    """The result of one training in a fresh process."""
    spec, out = folder / "spec.json", folder / "out.json"
    spec.write_text(run_spec.model_dump_json())
    env = {**os.environ, "PYTHONPATH": str(ROOT), **Slot("cpu:0", ("train",), None, 1).environment()}
    subprocess.run([sys.executable, "-P", __file__, "--child", str(spec), str(out)], env=env, check=True, capture_output=True)
    return json.loads(out.read_text())


def compared(case, run_spec, found, best):
    """One line of the report: predicted and measured, and their ratios."""
    seconds = sum(found["steps"]) * statistics.median(found["speeds"]) / best
    said = run_spec.predicted
    return {
        "model": case[0].removeprefix("bundled/"), "batch": case[3], "length": case[4], "precision": case[5],
        "label": run_spec.label, "params": said["trainable_params"] == found["trainable_params"],
        "memory": said["peak_memory_bytes"], "memory_measured": found["peak_memory_bytes"],
        "memory_ratio": said["peak_memory_bytes"] / found["peak_memory_bytes"],
        "seconds": said["train_seconds"], "seconds_measured": seconds, "seconds_ratio": said["train_seconds"] / seconds,
        "speeds": [speed / best for speed in found["speeds"]], "steps": found["steps"],
    }  # fmt: skip


def line(row):
    """One entry, for people: predicted / measured."""
    megabytes = f"{row['memory'] / 1e6:6.0f} / {row['memory_measured'] / 1e6:6.0f} MB x{row['memory_ratio']:.2f}"
    return (
        f"{row['model']:10} {row['batch']:3}x{row['length']:<3} {row['precision']} {row['label']:14}"
        f" params {'exact' if row['params'] else 'WRONG'}  memory {megabytes}"
        f"  seconds {row['seconds']:6.2f} / {row['seconds_measured']:6.2f} x{row['seconds_ratio']:.2f}"
    )


def medians(rows):
    """Median absolute relative errors."""
    return {name: statistics.median(abs(row[f"{name}_ratio"] - 1) for row in rows) for name in ("memory", "seconds")}


def report(rows):
    """Print the medians by model, by method and over all."""
    for key in ("model", "label", "precision"):
        for value in dict.fromkeys(row[key] for row in rows):
            some = [row for row in rows if row[key] == value]
            ratio = {n: statistics.median(r[f"{n}_ratio"] for r in some) for n in ("memory", "seconds")}
            error = medians(some)
            print(f"{value:16} n {len(some):3}  memory x{ratio['memory']:.2f} (error {error['memory']:.0%})"
                  f"  seconds x{ratio['seconds']:.2f} (error {error['seconds']:.0%})")  # fmt: skip
    error = medians(rows)
    exact = sum(row["params"] for row in rows)
    print(f"all {len(rows)}: parameters exact in {exact}, memory {error['memory']:.1%}, seconds {error['seconds']:.1%}")


def main():
    """Run the grid, print each entry and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[""], help="models whose name holds one of these")
    parser.add_argument("--held-out", action="store_true", help="other models, sizes and methods than the constants come from")
    parser.add_argument("--rows", help="also write the rows to this file")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(*args.child)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # the plan is then made for one thread, which the children use
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables(folder)
        for case in (c for c in (HELD_OUT if args.held_out else CASES) if any(name in c[0] for name in args.only)):
            if case[0] in SWEEP:
                random_model(case[0], folder)
            best = probe.gemm_flops(probe.machine("cpu", 1, case[5]))
            for run_spec in resolve(parse_spec(experiment(case, folder))):
                row = compared(case, run_spec, one(run_spec, folder), best)
                rows.append(row)
                print(line(row), flush=True)
                if args.rows:
                    Path(args.rows).write_text(json.dumps(rows, indent=1))
    report(rows)
    return None


if __name__ == "__main__":
    main()
