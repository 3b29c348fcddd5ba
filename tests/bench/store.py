"""10,000 finished runs in a home of their own, and how long what the screens ask takes: `python tests/bench/store.py [runs]`.

Runs are planted as the runner leaves them (a row in jobs.db, spec.yaml, verdict.json, predictions.parquet of 500 test rows);
nothing is trained. Experiments hold 20 methods x 10 seeds, so one experiment is a comparison of 200 runs.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
METHODS, SEEDS, TEST_ROWS = 20, 10, 500


def plant(runs: int) -> None:
    """Write the store and the run folders."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tests.services.planted import RESULT, run_spec
    from workbench.core import safe_yaml
    from workbench.core.paths import home, jobs_db
    from workbench.jobs.store import Store

    rng = np.random.default_rng(0)
    labels = np.array(["good", "bad"])
    truth, hard = rng.integers(0, 2, TEST_ROWS), rng.normal(size=TEST_ROWS)
    text = safe_yaml.dumps(run_spec("bench-000000", "METHOD", 0, run_id="RUN").model_dump(mode="json"))
    rows = []
    for number in range(runs):
        experiment = f"bench-{number // (METHODS * SEEDS):06x}"
        label, seed = f"method{number // SEEDS % METHODS:02d}", number % SEEDS
        run_id = f"{label}-s{seed}-{experiment[-6:]}"
        folder = home() / "runs" / run_id
        folder.mkdir(parents=True)
        spec = text.replace("bench-000000", experiment).replace("METHOD", label).replace("RUN", run_id)
        (folder / "spec.yaml").write_text(spec.replace("seed: 0\ndevice", f"seed: {seed}\ndevice"))
        right = 0.8 + 0.02 * (number // SEEDS % METHODS) + 0.1 * rng.normal() + hard + 0.5 * rng.normal(size=TEST_ROWS) > 0
        losses = np.where(right, 0.3, 1.5)
        said = {"id": np.arange(TEST_ROWS), "split": ["test"] * TEST_ROWS, "label": labels[truth],
                "prediction": labels[np.where(right, truth, 1 - truth)], "score": np.full(TEST_ROWS, 0.7), "loss": losses,
                "weight": np.ones(TEST_ROWS, dtype=int)}  # fmt: skip
        pq.write_table(pa.table(said), folder / "predictions.parquet")
        metrics = {"accuracy": right.mean(), "macro_f1": right.mean(), "loss": losses.mean()}
        verdict = {"state": "finished", "reason": None, "attempt": 1, "ended": 1.0, "result": {**RESULT, "metrics": metrics}}
        (folder / "verdict.json").write_text(json.dumps(verdict))
        rows.append({"run_id": run_id, "experiment": experiment, "name": "bench", "kind": "train", "label": label,
                     "method": label, "seed": seed, "spec": f"runs/{run_id}/spec.yaml"})  # fmt: skip
    with Store(jobs_db()) as store:
        store.add(rows)
        with store._write() as db:
            db.execute("UPDATE jobs SET state='finished', started=submitted, ended=submitted+10, step=50, steps=50, told=state")


def measure() -> None:
    """Print the seconds of a first and a second call of each."""
    from workbench.services import comparison, queue, results

    wanted = "bench-000003"
    calls = {
        "experiments": results.experiments,
        "job rows": results.job_rows,
        "queue rows (Runs page)": queue.rows,
        "rows of 200 runs": lambda: results.rows([wanted]),
        "results of 200 runs (190 pairs)": lambda: results.results([wanted]),
        "comparison of 200 runs": lambda: comparison.comparison([wanted]),
        "comparison of 10 x 20 runs": lambda: comparison.comparison(
            [f"bench-{i:06x}" for i in range(10)], labels=[f"method{k:02d} (bench-{i:06x})" for i in range(10) for k in (3, 9)]
        ),
        "pairs by loss": lambda: comparison.pairs(comparison.comparison([wanted]), "loss"),
        "front": lambda: comparison.front(comparison.comparison([wanted]), "train_seconds", "accuracy"),
        "learning curves": lambda: comparison.curves(comparison.comparison([wanted]).rows, "accuracy"),
    }
    print(f"{'seconds':34}  first (of the processor)   second (of the processor)")
    for name, call in calls.items():
        said = []
        for _ in range(2):
            wall, own = time.perf_counter(), time.process_time()
            call()
            said.append(f"{time.perf_counter() - wall:6.3f} ({time.process_time() - own:5.3f})")
        print(f"{name:34} {said[0]:>15}   {said[1]:>24}", flush=True)


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory(prefix="workbench-bench-") as folder:
        os.environ["WORKBENCH_HOME"] = folder
        start = time.perf_counter()
        plant(count)
        print(f"{count:,} runs planted in {time.perf_counter() - start:.0f} s")
        measure()
