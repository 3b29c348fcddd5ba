"""Adapter folders: whole or not at all, exact keys, and one sentence for every way they can be wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.contract import hosts
from tests.contract.checks import disturb
from tests.kernel.test_attach import put, run
from workbench.core.errors import WorkbenchError
from workbench.kernel import state
from workbench.kernel.adapter import Adapter


def saved(folder: Path, key: str = "lora") -> Adapter:
    """A disturbed adapter, written to `folder`."""
    adapter = put(hosts.host("bert"), key)
    disturb(adapter)
    state.save(folder, adapter, {"label": "mine", "base": {"source": "bundled/x"}})
    return adapter


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Rewrite the weights and their recorded hash."""
    tensors = load_file(folder / state.WEIGHTS)
    change(tensors)
    save_file(tensors, folder / state.WEIGHTS)
    meta = json.loads((folder / state.META).read_text())
    meta["sha256"][state.WEIGHTS] = state.file_sha256(folder / state.WEIGHTS)
    (folder / state.META).write_text(json.dumps(meta))


@pytest.mark.parametrize("change", ["missing", "unexpected", "misshapen"])
def test_keys_and_shapes_are_exact(tmp_path: Path, change: str) -> None:
    """The sentence names the tensor, and the host is left as it was."""
    saved(tmp_path / "a")
    key = "bert.encoder.layer.0.attention.self.query.A"
    edits = {
        "missing": (lambda t: t.pop(key), f"lacks tensor '{key}'"),
        "unexpected": (lambda t: t.update({"extra.A": torch.ones(1)}), "has an unexpected tensor 'extra.A'"),
        "misshapen": (lambda t: t.update({key: torch.ones(1, 2)}), f"tensor '{key}' must have shape \\(4, 32\\); got \\(1, 2\\)"),
    }
    edit_tensors(tmp_path / "a", edits[change][0])
    host = hosts.host("bert")
    out = run(host, "bert")
    with pytest.raises(WorkbenchError, match=edits[change][1]):
        state.restore(host, state.read(tmp_path / "a"), "a", ("classifier",))
    assert not host.workbench.members
    assert torch.equal(run(host, "bert"), out)


def test_a_failed_load_changes_nothing() -> None:
    """Keys and shapes are checked before the first tensor is written."""
    adapter = put(hosts.host("bert"), "lora")
    before = {n: t.clone() for n, t in adapter.tensors().items()}
    wrong = {n: t + 1 for n, t in before.items()}
    wrong[max(wrong)] = torch.ones(3)
    with pytest.raises(WorkbenchError, match="must have shape"):
        adapter.load(wrong)
    assert all(torch.equal(before[n], t) for n, t in adapter.tensors().items())


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda f: (f / state.META).unlink(), f"must hold {state.META}"),
        (lambda f: (f / state.META).write_text("{"), "must be the JSON that an export wrote"),
        (lambda f: (f / state.META).write_text("[" * 5000), "must be the JSON that an export wrote"),
        (lambda f: (f / state.WEIGHTS).unlink(), "is missing or was changed"),
        (lambda f: (f / state.WEIGHTS).write_bytes((f / state.WEIGHTS).read_bytes()[:-1]), "is missing or was changed"),
        (lambda f: edit_tensors(f, lambda t: t[min(t)].view(-1).__setitem__(0, float("nan"))), "must be finite"),
    ],
)
def test_broken_folders(tmp_path: Path, harm: Callable[[Path], None], sentence: str) -> None:
    """Missing, cut, changed and NaN files are one sentence each."""
    saved(tmp_path / "a")
    harm(tmp_path / "a")
    with pytest.raises(WorkbenchError, match=sentence):
        state.read(tmp_path / "a")


def test_a_truncated_safetensors_file_is_named(tmp_path: Path) -> None:
    """Even with a fitting hash, half a file is no file."""
    saved(tmp_path / "a")
    weights = tmp_path / "a" / state.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(WorkbenchError, match="must be a whole safetensors file"):
        state.read_tensors(weights)


def test_a_folder_is_replaced_whole_or_kept(tmp_path: Path) -> None:
    """A failure while writing leaves the old folder and no rubbish."""
    saved(tmp_path / "a")
    before = state.read(tmp_path / "a").tensors

    def fail(work: Path) -> None:
        (work / "half").write_text("x")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        state.write_whole(tmp_path / "a", fail)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert all(torch.equal(before[n], t) for n, t in state.read(tmp_path / "a").tensors.items())
    saved(tmp_path / "a", "dora")
    assert state.read(tmp_path / "a").meta["method"] == "dora"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_composites_and_base_tensors_round_trip(tmp_path: Path) -> None:
    """Parts beyond the first, the shared bank and trained norms all come back."""
    adapter = saved(tmp_path / "a", "pair")
    stored = state.read(tmp_path / "a")
    again = state.restore(hosts.host("bert"), stored, "b", ("classifier",))
    mine, theirs = adapter.tensors(), again.tensors()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[n], theirs[n]) for n in mine)
    assert {n.split(".")[0] for n in mine} == {"bert", "shared", "base"}


def test_few_changes_of_the_base_are_stored_as_positions(tmp_path: Path) -> None:
    """A mask's worth of changes takes a mask's worth of bytes, and comes back bitwise."""
    host = hosts.host("bert")
    adapter = put(host, "full")
    with torch.no_grad():
        for p in adapter.chosen.values():
            p.view(-1)[::50] += 1.0
    state.save(tmp_path / "a", adapter, {})
    stored = state.read(tmp_path / "a")
    assert any(n.endswith("#at") for n in stored.tensors)
    assert sum(t.numel() for t in stored.tensors.values()) < 0.1 * adapter.base_params()
    again = hosts.host("bert")
    state.restore(again, stored, "a", ("classifier",))
    assert torch.equal(run(again, "bert"), run(host, "bert"))


def test_two_restored_adapters_of_the_same_base_tensors_add_up(tmp_path: Path) -> None:
    """The second one's values count as soon as it is loaded."""
    saved(tmp_path / "a", "biases")
    host = hosts.host("bert")
    one = state.restore(host, state.read(tmp_path / "a"), "one", ("classifier",))
    state.restore(host, state.read(tmp_path / "a"), "two", ("classifier",))
    base, own, _ = one.originals()["bert.pooler.dense.bias"]
    assert torch.allclose(host.bert.pooler.dense.bias, base + 2 * (own - base), atol=1e-6)


def test_the_head_comes_back_or_says_why_not(tmp_path: Path) -> None:
    """Head tensors are stored apart and must fit the host."""
    host = hosts.host("bert")
    adapter = put(host, "head_only")
    state.save(tmp_path / "a", adapter, {}, head={n: p for n, p in host.named_parameters() if n.startswith("classifier")})
    stored = state.read(tmp_path / "a")
    assert not stored.tensors
    assert stored.head.keys() == {"classifier.weight", "classifier.bias"}
    other = hosts.host("bert")
    other.classifier = torch.nn.Linear(32, 5)
    with pytest.raises(WorkbenchError, match=r"head tensor 'classifier.bias' needs shape \(3,\); the model has shape \(5,\)"):
        state.restore(other, stored, "a", ("classifier",))
    assert not other.workbench.members


def test_an_adapter_of_another_base_does_not_fit(tmp_path: Path) -> None:
    """A stored adapter of BERT on a Llama: a sentence about the first tensor, nothing attached."""
    saved(tmp_path / "a")
    host = hosts.host("llama")
    with pytest.raises(WorkbenchError, match="made for another setup"):
        state.restore(host, state.read(tmp_path / "a"), "a")
    assert not host.workbench.members


def test_reference_rows_are_kept(tmp_path: Path) -> None:
    """Inputs and logits for `verify` come back as they were written."""
    adapter = put(hosts.host("bert"), "lora")
    rows = {"logits": torch.randn(8, 3), "input_ids": torch.arange(8)}
    state.save(tmp_path / "a", adapter, {}, reference=rows)
    found = state.read(tmp_path / "a").reference
    assert all(torch.equal(rows[k], found[k]) for k in rows)
    (tmp_path / "a" / state.REFERENCE).unlink()
    with pytest.raises(WorkbenchError, match="is missing or was changed"):
        state.read(tmp_path / "a")
