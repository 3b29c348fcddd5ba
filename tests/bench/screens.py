"""How long the Compare and Runs pages take with 10,000 runs in the store: `python tests/bench/screens.py [runs]`.

The server's part, by Streamlit's own test runner; what a browser adds is drawing. Nothing is trained; see `store.py`.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "bench")]
TABS = ("overview", "better", "tradeoffs", "curves", "inside")
ROUNDS = 3


def curves(experiment: str) -> None:
    """Give one experiment's runs events of 500 steps each."""
    import json

    from workbench.core.paths import run_folder
    from workbench.services import results

    lines = [
        {"event": "step", "step": s, "loss": 2.0 / s**0.3, "lr": 1e-3, "seconds": 0.1 * s, "examples": s} for s in range(1, 501)
    ]
    lines += [
        {"event": "evaluated", "step": s, "split": "validation", "metrics": {"accuracy": 0.5 + s / 2000}}
        for s in range(50, 501, 50)
    ]
    text = "".join(json.dumps({"time": 1.0, "attempt": 1, **line}) + "\n" for line in lines)
    for row in results.job_rows(experiment):
        (run_folder(row["run_id"]) / "events.jsonl").write_text(text)


def render(page: str, **query: str | list[str]) -> None:
    """Print the seconds of a first and of later renderings."""
    from streamlit.testing.v1 import AppTest

    at = AppTest.from_file(str(ROOT / "pages" / f"{page}.py"), default_timeout=300)
    for name, value in query.items():
        at.query_params[name] = value
    said = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        at.run()
        said.append(time.perf_counter() - start)
        assert not at.exception, at.exception
    shown = " ".join(f"{k}={v if isinstance(v, str) else len(v)}" for k, v in query.items())
    print(f"{page + ' ' + shown:45} first {said[0]:6.2f}   again {' '.join(f'{s:.2f}' for s in said[1:])}", flush=True)


def measure() -> None:
    """Both pages."""
    from workbench.jobs import client
    from workbench.ui import boot

    boot.waking.nudge = lambda: None
    client.ensure_daemon = lambda: None
    render("runs")
    render("runs", experiment="bench-000005")
    curves("bench-000007")
    for tab in TABS:
        render("compare", experiment="bench-000007", tab=tab)
    runs = [f"method{k:02d}-s{seed}-{one:06x}" for one in range(10) for k in (3, 9) for seed in range(10)]
    render("compare", run=runs)


if __name__ == "__main__":
    from store import plant

    with tempfile.TemporaryDirectory(prefix="workbench-bench-") as folder:
        os.environ["WORKBENCH_HOME"] = folder
        os.chdir(ROOT)
        plant(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
        measure()
