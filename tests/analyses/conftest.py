"""Trained and planted runs of tiny bases, as an analysis is given them."""

import json
from pathlib import Path

import pytest
import torch

from tests.train.conftest import bench
from workbench.analyses import Run
from workbench.core import safe_yaml
from workbench.evaluate import saved
from workbench.kernel import registry, state
from workbench.kernel.host import adapters_of
from workbench.models.bundled import weights_sha256
from workbench.tasks import find

__all__ = ["bench"]


@pytest.fixture
def plant(bench, tmp_path):
    """plant("bert", "lora", change=..., **row) -> a Run whose adapter was never trained, only changed by `change(adapter)`."""

    def make(family, method, change=lambda adapter: None, config=None, seed=0, history=(), **row):
        spec = bench.spec(family, method, config=config, seed=seed)
        base = Path(spec.model.source)
        labels = {"bert": ("neg", "pos"), "vit": ("dark", "light")}.get(family, ())
        task = find(spec.task)(base, labels, spec.training.max_length)
        host = task.host(seed)
        head = task.head(host)
        cfg = registry.configure(spec.base_method, spec.config)
        adapter = adapters_of(host, head).attach("adapter", spec.base_method, cfg, seed)
        with torch.no_grad():
            change(adapter)
        name = f"{family}-{method}-s{seed}-{len(list(tmp_path.iterdir()))}"
        meta = {
            "run_id": name, "label": method, "task": spec.task, "labels": list(labels), "head": list(head), "entries": [],
            "base": {"source": str(base), "revision": None, "sha256": weights_sha256(base), "model_type": family},
            "max_length": spec.training.max_length, "metrics": {find(spec.task).metric: 0.5},
        }  # fmt: skip
        tensors = {f"{h}.{n}": p for h in head for n, p in host.get_submodule(h).state_dict().items()}
        state.save(tmp_path / name / "adapter", adapter, meta, tensors)
        (tmp_path / name / "spec.yaml").write_text(safe_yaml.dumps(spec.model_dump(mode="json")))
        facts = {"seed": seed, "task": spec.task, "experiment": "e", "base_method": spec.base_method, **row}
        return Run(name, method, tmp_path / name / "adapter", facts, history)

    return make


def disturb(size=0.3):
    """A change for `plant`: every tensor of the adapter gets noise."""

    def change(adapter):
        gen = torch.Generator().manual_seed(5)
        for p in adapter.parameters():
            p.add_(size * torch.randn(p.shape, generator=gen))

    return change


def batches(run, count=8):
    """The run's model with its adapter on it, and batches of its test rows."""
    revived = saved.revive(run.stored, run.adapter)
    return revived, saved.some_test_rows(revived, count).batches


def plain(value):
    """What is left of a value on its way through a file."""
    return json.loads(json.dumps(value))
