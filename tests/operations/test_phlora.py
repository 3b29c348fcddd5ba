"""A low-rank adapter read off a fully fine-tuned model."""

from typing import Any

import pytest
import torch
from peft import PeftModel

from tests.train import planted
from workbench import operations, tasks
from workbench.core.errors import WorkbenchError
from workbench.data import load_table
from workbench.evaluate import evaluation, saved
from workbench.export import exporting
from workbench.kernel import registry, state
from workbench.kernel.attach import matrix
from workbench.kernel.host import adapters_of
from workbench.kernel.state import Stored
from workbench.operations.phlora import ROLES, svd

FAMILIES = ["bert", "llama", "gpt2", "vit"]
LINEAR = {"roles": [r for r in ROLES if r != "ffn.gate"]}  # only llama has a gate


def task(bench: Any, family: str) -> Any:
    labels = {"bert": ("neg", "pos"), "vit": ("dark", "light")}.get(family, ())
    return tasks.find(planted.TASKS[family])(bench.base(family), labels, 24)


def tuned(bench: Any, family: str = "bert", **config: Any) -> Stored:
    return planted.stored(bench.run(family, "full", config=config or LINEAR)[0])


def phlora(source: Stored, host: torch.nn.Module, **settings: Any) -> Stored:
    return operations.find("phlora")([source], host, settings)


@torch.no_grad()
def answers(stored: Stored, made: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    host = made.host(0)
    state.restore(host, stored)
    return host(**inputs).logits


def inputs(stored: Stored) -> dict[str, torch.Tensor]:
    return {k.removeprefix("input."): v for k, v in stored.reference.items() if k.startswith("input.")}


@pytest.mark.parametrize("family", FAMILIES)
def test_at_full_rank_the_logits_are_those_of_the_fine_tuned_model(bench, family):
    source, made = tuned(bench, family), task(bench, family)
    low = phlora(source, made.host(0), rank=4096)
    assert low.meta["method"] == "lora"
    assert low.meta["dropped"] == [] or all(n.endswith("bias") for n in low.meta["dropped"])
    bare = Stored(source.meta, dict(source.tensors), source.head)
    if low.meta["dropped"]:  # `full` on a linear site trains its bias too, which no low-rank matrix can carry
        base = dict(made.host(0).named_parameters())
        bare.tensors.update({f"base.{n}": base[n].detach() for n in low.meta["dropped"]})
    wanted = answers(bare, made, inputs(source))
    assert torch.allclose(answers(low, made, inputs(source)), wanted, atol=1e-4)


def changes(source: Stored, host: torch.nn.Module) -> dict[str, torch.Tensor]:
    adapters = adapters_of(host, ("classifier",))
    sites = [s for s in adapters.sites if s.role in ROLES]
    before = [matrix(host.get_submodule(s.path), s).detach().clone() for s in sites]
    state.restore(host, source)
    return {s.key: matrix(host.get_submodule(s.path), s).detach() - b for s, b in zip(sites, before, strict=True)}


def test_the_error_is_that_of_the_dropped_singular_values_and_falls_with_the_rank(bench):
    made, source = task(bench, "bert"), tuned(bench)
    wanted = changes(source, made.host(0))
    last = dict.fromkeys(wanted, float("inf"))
    for rank in (1, 2, 4, 8, 16):
        low = phlora(source, made.host(0), rank=rank)
        for key, change in wanted.items():
            values = torch.linalg.svdvals(change.double())
            error = float((change.double() - low.tensors[f"{key}.B"].double() @ low.tensors[f"{key}.A"].double()).norm())
            assert error == pytest.approx(float(values[rank:].square().sum().sqrt()), rel=1e-4)
            assert error < last[key]
            last[key] = error
            assert low.meta["energy"][key] == pytest.approx(float(values[:rank].square().sum() / values.square().sum()), abs=1e-6)


@torch.no_grad()
def test_a_merged_lora_comes_back_exactly_at_its_rank(bench):
    """The fine-tuned model is the base with a rank-3 LoRA merged into it, stored as a `full` adapter."""
    made = task(bench, "bert")
    host = made.host(0)
    cfg = registry.configure("lora", {"rank": 3, **LINEAR})
    lora = adapters_of(host, ("classifier",)).attach("low", "lora", cfg, 1)
    lora.load(
        {k: torch.randn(v.shape, generator=torch.Generator().manual_seed(i)) for i, (k, v) in enumerate(lora.tensors().items())}
    )
    adapters_of(host).merge()
    weights = {n: p.detach().clone() for n, p in host.named_parameters()}
    other = made.host(0)
    full = adapters_of(other, ("classifier",)).attach("adapter", "full", registry.configure("full", LINEAR))
    full.load({k: weights.get(k.removeprefix("base."), v) for k, v in full.tensors().items()})
    meta = {**tuned(bench).meta, "config": full.cfg.model_dump(mode="json")}
    source = Stored(meta, {k: v.clone() for k, v in full.tensors().items()})
    by_rank, by_energy = phlora(source, made.host(0), rank=3), phlora(source, made.host(0), energy=1 - 1e-6)
    assert by_rank.meta["energy"]
    assert all(share == pytest.approx(1.0, abs=1e-6) for share in by_rank.meta["energy"].values())
    assert by_energy.meta["config"]["rank"] == 3
    wanted = changes(source, made.host(0))
    for key, change in wanted.items():
        assert torch.allclose(
            by_rank.tensors[f"{key}.B"] @ by_rank.tensors[f"{key}.A"], change, atol=1e-4 * float(change.abs().max())
        )


def test_energy_gives_every_weight_the_rank_it_needs_and_no_more(bench):
    made, source = task(bench, "bert"), tuned(bench)
    low = phlora(source, made.host(0), energy=0.9)
    widest = 0
    for key, change in changes(source, made.host(0)).items():
        share = torch.linalg.svdvals(change.double()).square().cumsum(0)
        need = int((share / share[-1] < 0.9).sum()) + 1
        used = int(low.tensors[f"{key}.A"].any(1).sum())
        assert used == need
        assert low.meta["energy"][key] >= 0.9
        widest = max(widest, need)
    assert low.meta["config"]["rank"] == widest == low.meta["config"]["alpha"]


def test_what_lies_outside_is_named(bench):
    made, source = task(bench, "bert"), tuned(bench, roles=["ffn.up", "norms", "embed"])
    dropped = phlora(source, made.host(0)).meta["dropped"]
    assert any("LayerNorm" in n for n in dropped)
    assert any("word_embeddings" in n for n in dropped)
    assert any(n.endswith("intermediate.dense.bias") for n in dropped)
    assert not any(n.endswith("intermediate.dense.weight") for n in dropped)


def test_the_exported_folder_is_what_peft_loads(bench, home, tmp_path):
    """Through the `operate` job and the peft export, so with everything a person would touch."""
    run_folder, _ = bench.run("bert", "full", config=LINEAR)
    request = {"operation": "phlora", "adapters": [str(run_folder)], "settings": {"rank": 8}, "name": "low"}
    result = operations.run_job(request, tmp_path)
    assert (result["method"], result["name"]) == ("lora", "low")
    folder = home / "adapters" / "low"
    revived = saved.revive(state.read(folder), folder)
    ours = saved.logits(revived, saved.stored_rows(revived.stored).batches)[0]
    assert torch.allclose(ours, revived.stored.reference["logits"], atol=1e-5)
    rows = inputs(revived.stored)
    exporting.export(folder, "peft", tmp_path / "out")
    made = task(bench, "bert").host(0)
    state.load_head(made, revived.stored.head)
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(made, tmp_path / "out").eval()(**rows).logits
    assert torch.allclose(theirs, ours, atol=1e-4)
    with pytest.raises(WorkbenchError, match=r"an adapter is called 'low' already"):
        operations.run_job(request, tmp_path)


def test_ninety_percent_of_the_energy_keeps_the_accuracy_in_a_smaller_file(bench, tmp_path):
    data = planted.rows("bert", tmp_path / "rows", 600)
    facts = {"max_steps": 200, "learning_rate": 4e-3, "batch_size": 8, "eval_every": 999}
    spec = planted.spec(bench.base("bert"), "text_classification", data, "full", config=LINEAR, **facts)
    folder, result = bench.fresh(spec)
    source, made = planted.stored(folder), task(bench, "bert")
    assert result["metrics"]["accuracy"] >= 0.9
    low = phlora(source, made.host(0), energy=0.9)
    host = made.host(0)
    adapter = state.restore(host, low)
    rows = made.encode(load_table(spec.data, type(made).parts).test)
    _, metrics = evaluation.evaluate(made, host, rows, 16)
    assert metrics["accuracy"] >= result["metrics"]["accuracy"] - 0.02
    state.save(tmp_path / "low", adapter, low.meta, low.head)
    sizes = [(f / state.WEIGHTS).stat().st_size for f in (tmp_path / "low", folder / "adapter")]
    assert sizes[0] < sizes[1]


def test_it_refuses_what_did_not_train_base_tensors(bench):
    host = task(bench, "bert").host(0)
    with pytest.raises(WorkbenchError, match=r"^phlora reads adapters that trained base tensors \(full\); lora did not\.$"):
        phlora(planted.stored(bench.run("bert")[0]), host)
    one = tuned(bench)
    with pytest.raises(WorkbenchError, match=r"^phlora takes 1 adapters; got 2\.$"):
        operations.find("phlora")([one, one], host, {})
    with pytest.raises(WorkbenchError, match=r"phlora\.rank must be at least 1; got 0"):
        phlora(one, host, rank=0)


def test_a_weight_that_did_not_change_gets_a_zero_factor():
    a, b, share = svd(torch.zeros(6, 4), 2, None)
    assert (a.shape, b.shape, share) == ((2, 4), (6, 2), 1.0)
    assert not (b @ a).any()
    a, _, _ = svd(torch.zeros(6, 4), 2, 0.9)
    assert len(a) == 1
