"""Elastic adapters cut to an ordinary LoRA: the same logits, no trace on the host, and what peft loads."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import PeftModel

from tests.train import planted
from workbench import operations, tasks
from workbench.core.errors import WorkbenchError
from workbench.evaluate import saved
from workbench.export import exporting
from workbench.kernel import state
from workbench.kernel.state import Stored

LABELS = {"bert": ("neg", "pos"), "vit": ("dark", "light")}
PRUNED = {"rank": 6, "l1": 0.1, "kappa_max": 0.05, "dense_ratio": 0.0}


def task(bench: Any, family: str = "bert") -> Any:
    return tasks.find(planted.TASKS[family])(bench.base(family), LABELS.get(family, ()), 24)


def trained(bench: Any, method: str, family: str = "bert", **config: Any) -> Stored:
    return planted.stored(bench.run(family, method, config=config, max_steps=12)[0])


def cut(source: Stored, host: torch.nn.Module, rank: int | None = None) -> Stored:
    return operations.find("cut_rank")([source], host, {} if rank is None else {"rank": rank})


@torch.no_grad()
def answers(stored: Stored, made: Any) -> torch.Tensor:
    host = made.host(0)
    state.restore(host, stored)
    return host(**{k.removeprefix("input."): v for k, v in stored.reference.items() if k.startswith("input.")}).logits


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "vit"])
@pytest.mark.parametrize("b", [1, 3, 4])
def test_a_cut_dylora_is_the_elastic_one_at_that_rank(bench, family, b):
    source, made = trained(bench, "dylora", family, rank=4), task(bench, family)
    low = cut(source, made.host(0), b)
    assert low.meta["method"] == "lora"
    assert {len(t) for n, t in low.tensors.items() if n.endswith(".A")} == {b}
    elastic = replace(source, meta={**source.meta, "config": {**source.meta["config"], "evaluate_at": b}})
    wanted = answers(elastic, made)
    assert torch.allclose(answers(replace(low, reference=source.reference), made), wanted, atol=1e-5)
    assert b == 4 or not torch.allclose(answers(source, made), wanted, atol=1e-4)


@pytest.mark.parametrize("config", [{"rank": 4, "alpha": 6.0}, {"rank": 4, "rank_stabilised": True}])
def test_a_cut_lora_keeps_its_first_ranks_at_their_scale(bench, config):
    source, made = trained(bench, "lora", **config), task(bench)
    for b in (2, 4):
        low = cut(source, made.host(0), b)
        zeroed = {n: t.clone() for n, t in source.tensors.items()}
        for name, tensor in zeroed.items():
            if name.endswith(".A"):
                tensor[b:] = 0
        wanted = answers(replace(source, tensors=zeroed), made)
        assert torch.allclose(answers(replace(low, reference=source.reference), made), wanted, atol=1e-5)


def test_a_pruned_dynamic_lora_keeps_what_is_alive_and_nothing_else(bench):
    source, made = trained(bench, "dynamic_lora", **PRUNED), task(bench)
    alive = [int(t.count_nonzero()) for n, t in source.tensors.items() if n.endswith(".w")]
    assert 0 < max(alive) < 6, "the planted run is meant to lose ranks"
    low = cut(source, made.host(0))
    assert low.meta["config"]["rank"] == max(alive)
    assert low.meta["config"]["roles"] == ["attn.q", "attn.k", "attn.v", "attn.out", "ffn.up", "ffn.down"]
    wanted = answers(source, made)
    assert torch.allclose(answers(replace(low, reference=source.reference), made), wanted, atol=1e-5)


def test_of_a_dynamic_lora_the_largest_ranks_stay(bench):
    source, made = trained(bench, "dynamic_lora", rank=6), task(bench)
    low = cut(source, made.host(0), 2)
    for key in (n.removesuffix(".w") for n in source.tensors if n.endswith(".w")):
        A, B, w = (source.tensors[f"{key}.{n}"] for n in "ABw")
        acting = w.sign() * (w.abs() - source.tensors[f"{key}.kappa"]).clamp(min=0)
        terms = [acting[j] * torch.outer(B[:, j], A[j]) for j in range(6)]
        kept = sorted(terms, key=lambda t: -float(t.norm()))[:2]
        assert torch.allclose(low.tensors[f"{key}.B"] @ low.tensors[f"{key}.A"], sum(kept), atol=1e-6)


def test_depths_and_the_head_stay(bench):
    source, made = trained(bench, "dylora", rank=4, depths=[1], roles=["attn.k"]), task(bench)
    low = cut(source, made.host(0), 2)
    assert (low.meta["config"]["depths"], low.meta["config"]["roles"]) == ((1,), ["attn.k"])
    assert low.head.keys() == source.head.keys()
    assert all(torch.equal(low.head[n], source.head[n]) for n in low.head)


def test_without_a_rank_everything_in_use_stays(bench):
    made = task(bench)
    assert cut(trained(bench, "dylora", rank=4), made.host(0)).meta["config"]["rank"] == 4
    assert cut(trained(bench, "dylora", rank=4, evaluate_at=3), made.host(0)).meta["config"]["rank"] == 3
    same = trained(bench, "lora", rank=4)
    assert planted.equal(cut(same, made.host(0)), same)


def test_the_host_is_left_clean(bench):
    host = task(bench).host(0)
    before = {n: (p, p.clone(), p.requires_grad) for n, p in host.named_parameters() if "classifier" not in n}
    cut(trained(bench, "dylora", rank=4), host, 2)
    assert not hasattr(host, "workbench")
    now = dict(host.named_parameters())
    assert all(now[n] is p and torch.equal(p, v) and p.requires_grad == g for n, (p, v, g) in before.items())


def test_the_exported_folder_is_what_peft_loads(bench, home, tmp_path):
    """Through the `operate` job and the peft export."""
    run_folder, _ = bench.run("bert", "dylora", config={"rank": 4}, max_steps=12)
    request = {"operation": "cut_rank", "adapters": [str(run_folder)], "settings": {"rank": 2}, "name": "two"}
    assert operations.run_job(request, tmp_path)["method"] == "lora"
    folder = home / "adapters" / "two"
    revived = saved.revive(state.read(folder), folder)
    exporting.export(folder, "peft", tmp_path / "out")
    made = task(bench).host(0)
    state.load_head(made, revived.stored.head)
    rows = {k.removeprefix("input."): v for k, v in revived.stored.reference.items() if k.startswith("input.")}
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(made, tmp_path / "out").eval()(**rows).logits
    assert torch.allclose(theirs, revived.stored.reference["logits"], atol=1e-4)


def test_what_has_no_ranks_to_cut_or_too_few_is_one_sentence(bench):
    host = task(bench).host(0)
    with pytest.raises(WorkbenchError, match=r"^cut_rank takes adapters of lora, .* lora_nas; this one is of ia3\.$"):
        cut(trained(bench, "ia3"), host)
    with pytest.raises(WorkbenchError, match=r"^cut_rank\.rank must be at most the adapter's own rank, 4; got 5\.$"):
        cut(trained(bench, "dylora", rank=4), host, 5)
    assert not hasattr(host, "workbench")
    with pytest.raises(WorkbenchError, match=r"cut_rank\.rank must be at least 1; got 0"):
        cut(trained(bench, "dylora", rank=4), host, 0)
