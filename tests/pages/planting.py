"""A home with an experiment in every state, written as the workers would have left it; no training is needed."""

import csv
import json
import time
from pathlib import Path

from workbench.core import safe_yaml
from workbench.core.paths import jobs_db, run_folder
from workbench.core.run_spec import DataRef, ModelRef, RunSpec
from workbench.core.spec import TrainingSpec
from workbench.jobs.store import Store

EXPERIMENT = "first-abc123"
LABELS = ("bad", "good")
SIZES = {"head_only": 0, "lora": 73_728}


def spec(run_id, method, seed, experiment=EXPERIMENT):
    """The RunSpec of a planted run."""
    return RunSpec(
        run_id=run_id,
        experiment=experiment,
        label=method,
        method=method,
        base_method=method,
        config={"rank": 8} if method == "lora" else {},
        model=ModelRef(source="bundled/minilm"),
        task="text_classification",
        data=DataRef(source="bundled/docstrings"),
        training=TrainingSpec(),
        seed=seed,
        predicted={"trainable_params": SIZES[method], "peak_memory_bytes": 2e8, "train_seconds": 12.0},
    )


def result(method, accuracy):
    """The verdict's result of a finished run."""
    figures = {"trainable_params": SIZES[method], "head_params": 770, "total_params": 22_713_986, "adapter_bytes": 300_000}
    figures |= {"peak_memory_bytes": 210_000_000, "train_seconds": 12.5, "examples_per_second": 80.0, "steps": 4}
    return {**figures, "neighbours": False, "device": "cpu", "threads": 1, "metrics": {"accuracy": accuracy, "loss": 0.4}}


def plant_run(store, run_id, method, seed, state="finished", accuracy=0.8, experiment=EXPERIMENT, reason=None):
    """One row and its run folder; returns the job's number."""
    folder = run_folder(run_id)
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(safe_yaml.dumps(spec(run_id, method, seed, experiment).model_dump(mode="json")))
    name = experiment.rpartition("-")[0]
    row = {"run_id": run_id, "experiment": experiment, "name": name, "kind": "train", "label": method, "method": method}
    job = store.add([{**row, "seed": seed, "spec": f"runs/{run_id}/spec.yaml"}])[0]
    if state != "queued":
        (folder / "train.log").write_text("loading the base\ntraining\n")
        events(folder, 4 if state == "finished" else 2, accuracy)
        values = {
            "state": state,
            "step": 4 if state == "finished" else 2,
            "steps": 4,
            "started": time.time() - 20,
            "reason": reason,
        }
        store._set(job, values, ("queued",))
    if state in ("finished", "failed"):
        store._set(job, {"ended": time.time()}, (state,))
        done = result(method, accuracy) if state == "finished" else None
        verdict = {"state": state, "reason": reason, "attempt": 1, "ended": time.time(), "result": done}
        (folder / "verdict.json").write_text(json.dumps(verdict))
    if state == "finished":
        leave_adapter(folder, method, accuracy)
        leave_predictions(folder)
    return job


def events(folder: Path, steps: int, accuracy: float) -> None:
    """`events.jsonl` with a few steps and evaluations."""
    lines = [{"event": "started", "steps": 4}, {"event": "phase", "name": "training", "time": time.time()}]
    lines += [{"event": "step", "step": s, "loss": 2.0 / s, "lr": 1e-3, "seconds": 0.1} for s in range(1, steps + 1)]
    lines += [
        {"event": "evaluated", "step": s, "split": "validation", "metrics": {"accuracy": 0.2 * s}} for s in range(2, steps + 1, 2)
    ]
    if steps == 4:
        lines.append({"event": "evaluated", "step": 4, "split": "test", "metrics": {"accuracy": accuracy}})
    (folder / "events.jsonl").write_text("".join(json.dumps({"time": 1.0, "attempt": 1, **line}) + "\n" for line in lines))


def leave_adapter(folder: Path, method: str, accuracy: float) -> None:
    """An adapter folder's description, enough for listing it."""
    meta = {
        "method": method,
        "task": "text_classification",
        "base": {"source": "bundled/minilm"},
        "metrics": {"accuracy": accuracy},
    }
    (folder / "adapter").mkdir()
    (folder / "adapter" / "workbench_adapter.json").write_text(json.dumps(meta))


def leave_predictions(folder: Path) -> None:
    """Four test rows, one of them wrong."""
    rows = [(0, "good", "good", 0.9, 0.1), (1, "bad", "bad", 0.8, 0.2), (2, "good", "bad", 0.7, 1.2), (3, "bad", "bad", 0.6, 0.5)]
    with open(folder / "predictions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "split", "label", "prediction", "score", "loss"])
        writer.writerows([n, "test", *rest] for n, *rest in rows)


def plant(states=True) -> dict[str, int]:
    """Two methods with two seeds, and (unless told otherwise) a failed, a running and a queued run; name -> job."""
    with Store(jobs_db()) as store:
        jobs = {
            f"{method}-{seed}": plant_run(store, f"{method}-s{seed}-aaaa000{seed}", method, seed, accuracy=base + 0.02 * seed)
            for method, base in (("head_only", 0.6), ("lora", 0.8))
            for seed in (0, 1)
        }
        if states:
            jobs["failed"] = plant_run(
                store, "lora-s2-bbbb0000", "lora", 2, "failed", reason="the learning rate must be smaller; lower it."
            )
            jobs["running"] = plant_run(store, "lora-s3-cccc0000", "lora", 3, "running")
            jobs["queued"] = plant_run(store, "lora-s4-dddd0000", "lora", 4, "queued")
    return jobs


def plan_of(spec) -> dict:
    """What `plans.ask` would answer."""
    methods = [
        {
            "label": entry if isinstance(entry, str) else entry["method"],
            "trainable_params": 73_728,
            "share_of_base": 0.00325,
            "sites": 12,
            "learning_rate": 2e-3,
            "search": None,
            "predicted": {"trainable_params": 73_728, "peak_memory_bytes": 2e8, "train_seconds": 30.0},
            "problems": [],
        }
        for entry in spec["methods"]
    ]
    return {
        "experiment": spec["name"],
        "rows": {"train": 1000, "validation": 100, "test": 200},
        "notes": [],
        "problems": [],
        "warnings": [],
        "device": {"kind": "cpu", "threads": 2, "precision": "fp32", "free_bytes": 8e9, "total_bytes": 16e9},
        "calibration": {"sentence": "Not calibrated yet."},
        "methods": methods,
    }


def preview_of(source, task, rows=8) -> dict:
    """What `data.ask` would answer."""
    return {
        "columns": ["review", "label"],
        "mapping": {"text": "review", "label": "label", **(source.get("columns") or {})},
        "rows": [{"review": "fine and warm", "label": "good"}, {"review": "cold and grim", "label": "bad"}],
        "total": 120,
        "counts": {"train": 84, "validation": 12, "test": 24},
        "balance": {"good": {"train": 42, "validation": 6, "test": 12}, "bad": {"train": 42, "validation": 6, "test": 12}},
        "labels": list(LABELS),
        "notes": ["2 duplicate rows were dropped"],
        "problem": None,
        "reasons": {"text": '"review" has the longest texts'},
        "proposed": {},
        "doctor": [
            {
                "severity": "warning", "what": "conflict", "count": 2, "share": 0.02,
                "sentence": "2 rows have the same text and different labels.",
                "examples": [{"id": 7, "split": "train", "text": "<b>so-so</b>"}],
            }
        ],
    }  # fmt: skip


def tokens_of(source, task, model, max_length, rows=5) -> dict:
    """What `data.ask_tokens` would answer: one row, its last token cut."""
    piece = {"token_id": 7, "special": False, "loss": False, "cut": False}
    pieces = [{**piece, "text": "[CLS]", "special": True}, {**piece, "text": "<i>fine"}, {**piece, "text": "grim", "cut": True}]
    return {
        "rows": [{"id": 3, "split": "train", "pieces": pieces, "length": 3, "truncated": True, "hidden": 0}],
        "truncation": {
            "share": 0.25,
            "n": 84,
            "of": 84,
            "longest": 300,
            "p50": 20,
            "p95": 90,
            "p99": 200,
            "at_max_length": max_length,
        },
        "unknown": None,
        "suggestion": {"max_length": 200, "share": 0.008, "sentence": "max_length 200 would cut 0.8 % of the rows."},
        "limit": 512,
        "scores": "label",
        "image": None,
    }  # fmt: skip


def examples_of(reference) -> list:
    """What `playing.ask_examples` would answer: seven rows."""
    return [{"id": n, "inputs": {"text": f"fine and warm {n}"}, "answer": "good", "picture": ""} for n in range(7)]


def answer_of(references, inputs, settings) -> dict:
    """What `playing.ask_play` would answer: the first adapter is head only, the last one is of another opinion."""
    columns = [column("base", shows=references[0])]
    columns += [column(one, good=0.8 if one != references[-1] else 0.1) for one in references]
    return {"columns": columns, "note": "Latency: measured nowhere."}


def column(reference, good=0.8, **more) -> dict:
    """One answer of the playground."""
    chances = sorted([{"label": "good", "p": good}, {"label": "bad", "p": 1 - good}], key=lambda one: -one["p"])
    found = {"reference": reference, "label": reference.partition("-")[0], "method": None, "shows": None, "output": None}
    found |= {"prediction": chances[0]["label"], "probabilities": chances, "latency_ms": 12.345, "latency_runs": 5}
    return {**found, "tokens": None, "cut": 0, "problem": None, **more}
