"""The `operate` job on two planted adapters of the bundled encoder."""

from pathlib import Path

import pytest
import torch

from workbench.core.errors import WorkbenchError
from workbench.core.paths import run_folder
from workbench.kernel import registry, state
from workbench.kernel.host import adapters_of
from workbench.models.bundled import resolve_model, weights_sha256
from workbench.operations import run_job
from workbench.tasks import find


@pytest.fixture
def two(home):
    """Folders of two LoRA adapters, with heads and a reference row."""
    base = resolve_model("bundled/minilm")
    task = find("text_classification")(base, ("bad", "good"), 16)
    host = task.host()
    head = task.head(host)
    folders = []
    for seed in (0, 1):
        adapter = adapters_of(host, head).attach(f"a{seed}", "lora", registry.configure("lora", {"rank": 2}), seed)
        with torch.no_grad():
            for part in adapter.parts.values():
                part.B.normal_()
        meta = {
            "run_id": f"lora-s{seed}",
            "base": {"source": "bundled/minilm", "revision": None, "sha256": weights_sha256(base), "model_type": "bert"},
            "task": "text_classification",
            "labels": ["bad", "good"],
            "max_length": 16,
            "head": list(head),
            "metrics": {"accuracy": 0.9},
        }
        tensors = {f"{h}.{n}": p for h in head for n, p in host.get_submodule(h).state_dict().items()}
        reference = {
            "input.input_ids": torch.tensor([[101, 2204, 102]]),
            "input.attention_mask": torch.ones(1, 3, dtype=torch.long),
        }
        folder = run_folder(f"lora-s{seed}") / "adapter"
        state.save(folder, adapter, meta, tensors, reference)
        folders.append(str(folder))
    return folders


def test_the_mean_is_kept_under_its_name_and_can_be_read(two, home, tmp_path):
    request = {"operation": "average", "adapters": two, "settings": {"weights": [1, 3]}, "name": "mean"}
    found = run_job(request, tmp_path)
    assert found["parents"] == ["lora-s0", "lora-s1"]
    assert found["folder"] == str(home / "adapters" / "mean")
    first, second, mean = (state.read(Path(f)) for f in (*two, found["folder"]))
    for name, tensor in mean.tensors.items():
        assert torch.allclose(tensor, (first.tensors[name] + 3 * second.tensors[name]) / 4, atol=1e-6)
    assert "metrics" not in mean.meta
    assert (found["metrics"], found["trainable_params"]) == ({}, sum(t.numel() for t in mean.tensors.values()))
    assert mean.meta["operation"] == "average"
    assert mean.reference["logits"].shape == (1, 2)
    with pytest.raises(WorkbenchError, match="called 'mean' already"):
        run_job(request, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "../out"}, "--name must be"),
        ({"settings": {"weights": [1]}}, "one weight per adapter"),
        ({"operation": "phlora"}, "takes 1 adapters"),
    ],
)
def test_a_bad_request_leaves_nothing(two, home, tmp_path, change, words):
    request = {"operation": "average", "adapters": two, "settings": {}, "name": "mean", **change}
    with pytest.raises(WorkbenchError, match=words):
        run_job(request, tmp_path)
    assert not (home / "adapters" / "mean").exists()


def test_judging_needs_the_run_it_comes_from(two, home, tmp_path):
    request = {"operation": "average", "adapters": two, "settings": {}, "name": "mean", "judge": True}
    with pytest.raises(WorkbenchError, match="judged on the test rows of its run: the run is not here any more"):
        run_job(request, tmp_path)
    assert not (home / "adapters" / "mean").exists()
