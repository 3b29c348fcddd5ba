"""Jobs with specs and verdicts as the runner leaves them, without training anything."""

import json

from workbench.core import safe_yaml
from workbench.core.paths import jobs_db, run_folder
from workbench.core.run_spec import DataRef, ModelRef, RunSpec
from workbench.core.spec import TrainingSpec
from workbench.jobs.store import Store

RESULT = {
    "trainable_params": 36864, "base_trained_params": 0, "peak_trainable_params": 36864, "head_params": 770,
    "total_params": 22_750_850, "adapter_bytes": 165_648, "peak_memory_bytes": 200_000_000, "memory_kind": "cpu_rss_over_model",
    "train_seconds": 12.5, "examples_per_second": 80.0, "load_seconds": 3.0, "first_step_seconds": 4.0, "eval_seconds": 2.0,
    "steps": 50, "precision": "fp32", "device": "cpu", "threads": 1, "neighbours": False, "learning_rate": 2e-3,
    "validation": {"accuracy": 0.6}, "versions": {"torch": "2"}, "base_sha256": "ab" * 32,
}  # fmt: skip


def run_spec(experiment, label, seed, **more):
    """A RunSpec as `resolve` makes it."""
    values = {
        "run_id": f"{label}-s{seed}-{experiment[-6:]}",
        "experiment": experiment,
        "label": label,
        "method": label,
        "base_method": label,
        "config": {"rank": 4},
        "model": ModelRef(source="bundled/minilm"),
        "task": "text_classification",
        "data": DataRef(source="bundled/docstrings"),
        "training": TrainingSpec(learning_rate=1e-3),
        "seed": seed,
        "predicted": {"trainable_params": 36864, "peak_memory_bytes": 1.5e8, "train_seconds": 10.0},
    }
    return RunSpec(**{**values, **more})


def plant(spec, state="finished", accuracy=0.7, reason=None, **result):
    """One training job in a final state (or queued); returns its number."""
    folder = run_folder(spec.run_id)
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(safe_yaml.dumps(spec.model_dump(mode="json")))
    name = spec.experiment.rpartition("-")[0]
    row = {"run_id": spec.run_id, "experiment": spec.experiment, "name": name, "kind": "train", "label": spec.label,
           "method": spec.method, "seed": spec.seed, "spec": f"runs/{spec.run_id}/spec.yaml"}  # fmt: skip
    with Store(jobs_db()) as store:
        job = store.add([row])[0]
        if state == "queued":
            return job
        store.claim("cpu:0", ("train",))
        store.began(job, 1, 1, None)
        store.progress(job, 1, 50, 50)
        store.end(job, 1, state, reason)
    found = {**RESULT, "metrics": {"accuracy": accuracy, "loss": 0.5}, **result} if state == "finished" else None
    verdict = {"state": state, "reason": reason, "attempt": 1, "ended": 1.0, "result": found}
    (folder / "verdict.json").write_text(json.dumps(verdict))
    return job
