"""Training on CUDA, and that training needs neither the screens nor the tracking server nor the table libraries.

Run with `make gpu` on a machine with torch, transformers, peft, accelerate, safetensors and pydantic.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train import planted
from workbench import tasks
from workbench.core.run_spec import Placed, RunSpec
from workbench.evaluate import evaluation
from workbench.kernel import state
from workbench.kernel.host import adapters_of
from workbench.models.bundled import bundled_path

ROOT = Path(__file__).resolve().parents[2]
CUDA = torch.cuda.is_available()
MODELS = {"lm": "causal_lm", "vit": "image_classification", "bert": "text_classification"}
METHODS = ["lora", "full", "prompt_tuning", "houlsby_adapter", "read_rnn"]
SMALL = {"prompt_tuning": {"n_tokens": 4}, "houlsby_adapter": {"bottleneck": 4}, "read_rnn": {}}


def on_gpu(test: Any) -> Any:
    """Optional, and skipped with its reason where there is no device."""
    return pytest.mark.gpu(pytest.mark.skipif(not CUDA, reason="no CUDA device here")(test))


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


def model(name: str, room: Path) -> Path:
    """A shipped model, or a small BERT from a config."""
    if name != "bert":
        return bundled_path(name)
    return room / "bert" if (room / "bert").exists() else planted.base("bert", room / "bert")


def spec(name: str, room: Path, method: str, **training: Any) -> RunSpec:
    kind = {"lm": "llama", "vit": "vit", "bert": "bert"}[name]
    facts = {"learning_rate": 1e-3, "batch_size": 8, "max_steps": 5, **training}
    return planted.spec(
        model(name, room), MODELS[name], planted.rows(kind, room / "rows"), method, config=SMALL.get(method), **facts
    )


def on_cuda(run_spec: RunSpec, folder: Path) -> dict[str, Any]:
    return planted.go(run_spec, folder, placed=Placed(device="cuda:0"))


@torch.no_grad()
def logits(folder: Path, run_spec: RunSpec, device: str) -> torch.Tensor:
    """What the stored adapter makes of the stored rows."""
    kept = planted.stored(folder)
    task = tasks.find(run_spec.task)(Path(run_spec.model.source), kept.meta["labels"], run_spec.training.max_length)
    host = task.host(0).to(device)
    state.restore(host, kept)
    rows = {k.removeprefix("input."): v.to(device) for k, v in kept.reference.items() if k.startswith("input.")}
    facts = {k.removeprefix("fact."): v.to(device) for k, v in kept.reference.items() if k.startswith("fact.")}
    with adapters_of(host).context(**facts):
        output = host(**rows)
    batch = evaluation.Batch(rows, facts, torch.zeros(0), ())
    return task.logits(output, batch).cpu()


@on_gpu
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_a_run_on_cuda_loads_on_the_cpu(room: Path, name: str, method: str) -> None:
    one, folder = spec(name, room, method), room / f"{name}-{method}"
    result = on_cuda(one, folder)
    assert result["memory_kind"] == "cuda_allocated"
    assert result["peak_memory_bytes"] > 0
    assert result["steps"] == 5
    assert torch.cuda.get_device_name(0) == result["device"]
    reference = planted.stored(folder).reference["logits"]
    assert torch.isfinite(reference).all()
    assert (logits(folder, one, "cpu") - reference).abs().max() < 1e-3 * max(1.0, float(reference.abs().max()))


@on_gpu
@pytest.mark.parametrize("name", MODELS)
def test_bf16_autocast_trains(room: Path, name: str) -> None:
    result = on_cuda(spec(name, room, "lora", precision="bf16"), room / f"{name}-bf16")
    assert result["precision"] == "bf16"
    assert all(v == v and abs(v) < float("inf") for v in result["metrics"].values())


@on_gpu
@pytest.mark.parametrize("name", MODELS)
def test_merging_on_cuda_and_back_is_bitwise(room: Path, name: str) -> None:
    one, folder = spec(name, room, "lora"), room / f"{name}-merge"
    on_cuda(one, folder)
    kept = planted.stored(folder)
    host = tasks.find(one.task)(Path(one.model.source), kept.meta["labels"], 24).host(0).to("cuda")
    before = {n: (p, p.detach().clone()) for n, p in host.named_parameters() if not n.startswith(tuple(kept.meta["head"]))}
    state.restore(host, kept)
    adapters_of(host).merge()
    now = dict(host.named_parameters())
    assert any(not torch.equal(now[n], value) for n, (_, value) in before.items())
    adapters_of(host).unmerge()
    now = dict(host.named_parameters())
    assert all(now[n] is p and torch.equal(p, value) for n, (p, value) in before.items())


@on_gpu
def test_a_run_placed_on_the_cpu_stays_there(room: Path) -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    result = planted.go(spec("bert", room, "lora"), room / "cpu", placed=Placed(device="cpu"))
    assert result["memory_kind"].startswith("cpu_rss")
    assert torch.cuda.memory_allocated() == before


# --- anywhere -----------------------------------------------------------------------------------------------------

BLOCKED = ("streamlit", "mlflow", "datasets", "pandas", "pyarrow", "plotly")
LEAN = f"""
import importlib.machinery, json, sys

class Wall(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {BLOCKED!r} else super().find_spec(name, path, target)

sys.meta_path[:] = [Wall if f is importlib.machinery.PathFinder else f for f in sys.meta_path]
import pathlib
import workbench, workbench.train, workbench.tasks, workbench.kernel, workbench.data
from tests.train import planted

room = pathlib.Path(sys.argv[1])
data = planted.rows("bert", room / "rows")
spec = planted.spec(planted.base("bert", room / "bert"), "text_classification", data)
result = planted.go(spec, room / "run")
found = [m for m in sys.modules if m.partition(".")[0] in {BLOCKED!r}]
print(json.dumps({{"steps": result["steps"], "found": found}}))
"""


def lean(code: str, *args: str) -> str:
    """Run code in a process of its own, offline."""
    facts = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, env=facts, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


def test_training_needs_no_screens_tracking_or_tables(tmp_path: Path) -> None:
    assert json.loads(lean(LEAN, str(tmp_path))) == {"steps": 4, "found": []}
    lines = (tmp_path / "run" / "predictions.csv").read_text().splitlines()
    assert lines[0].startswith("id,split,label,prediction,score,loss")
    assert len(lines) == 11
    assert not (tmp_path / "run" / "predictions.parquet").exists()
    assert planted.stored(tmp_path / "run").meta["method"] == "lora"


def test_make_gpu_collects_without_screens_tracking_or_tables() -> None:
    wall = LEAN.partition("import pathlib")[0]  # as if those packages were not installed
    code = (
        wall
        + "import pytest\nsys.exit(pytest.main(['-q', 'tests/gpu', '-m', 'gpu', '--collect-only', '-p', 'no:cacheprovider']))"
    )
    assert "collected" in lean(code) or "selected" in lean(code)
    recipe = (ROOT / "Makefile").read_text().partition("\ngpu:")[2].splitlines()[1]
    assert "-m pytest -q tests/gpu -m gpu" in recipe
