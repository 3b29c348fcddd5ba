"""Lottery-ticket sparse fine-tuning: what may differ, how the places are chosen, and that differences add up."""

from functools import cache
from typing import Any

import pytest
import torch

from tests.train import planted
from workbench import recipes, tasks
from workbench.core.errors import WorkbenchError
from workbench.core.events import Phase, Silent, Step
from workbench.kernel import state
from workbench.kernel.host import adapters_of
from workbench.recipes import lt_sft
from workbench.recipes.contract import Models

KEEP = 0.02
DECAY = {"weight_decay": 0.5, "learning_rate": 0.02, "max_steps": 8, "warmup": 0.0}


def trained(bench: Any, seed: int = 0, method: str = "full", family: str = "bert", **recipe: Any) -> tuple[Any, dict[str, Any]]:
    return bench.run(family, method, seed=seed, recipe={"recipe": "lt_sft", "keep": KEEP, **recipe}, **DECAY)


@pytest.fixture
def fresh_host(bench):
    """A base with the run's head names, nothing attached."""

    def make(family: str = "bert") -> torch.nn.Module:
        labels = ("neg", "pos") if family == "bert" else ()
        return tasks.find(planted.TASKS[family])(bench.base(family), labels, 24).host(0)

    return make


def base_of(host: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in host.named_parameters() if not n.startswith(("classifier", "workbench"))}


def differing(before: dict[str, torch.Tensor], host: torch.nn.Module) -> dict[str, int]:
    now = dict(host.named_parameters())
    return {n: d for n, b in before.items() if (d := int((now[n].view(torch.int32) != b.view(torch.int32)).sum()))}


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_at_most_k_entries_differ_and_norms_never(bench, fresh_host, family):
    """Bit for bit, with weight decay on: decoupled decay would move masked entries if only gradients were masked."""
    folder, result = trained(bench, family=family)
    host = fresh_host(family)
    before = base_of(host)
    state.restore(host, planted.stored(folder))
    changed = differing(before, host)
    norms = {n for n in before if "norm" in n.lower()}
    maskable = sum(b.numel() for n, b in before.items() if n not in norms)
    limit = int(KEEP * maskable)
    assert result["trainable_params"] == limit
    assert 0.9 * limit < sum(changed.values()) <= limit
    assert norms
    assert not norms & changed.keys()


def planned(bench: Any, **options: Any) -> tuple[lt_sft.LtSft, Models]:
    """The recipe on a freshly attached `full`, every trained tensor moved by known amounts."""
    task = tasks.find("text_classification")(bench.base("bert"), ("neg", "pos"), 24)
    host = task.host(0)
    adapters = adapters_of(host, task.head(host))
    from workbench.kernel import registry

    adapter = adapters.attach("adapter", "full", registry.configure("full", {}))
    models = Models(host, adapters, adapter, task, tuple(host.classifier.parameters()))
    return lt_sft.LtSft(lt_sft.LtSftConfig(keep=KEEP, **options), models, 3), models


@torch.no_grad()
def test_the_places_are_the_brute_force_global_top_k(bench):
    recipe, _ = planned(bench)
    gen = torch.Generator().manual_seed(5)
    moves = {n: torch.randn(own.shape, generator=gen) * (1 + i % 3) for i, (n, (_, own)) in enumerate(recipe.base.items())}
    for name, (base, own) in recipe.base.items():
        own.copy_(base + moves[name])
    moved = {n: (own - base).abs() for n, (base, own) in recipe.base.items()}
    recipe.between(Phase("search", 1))
    every = sorted(((float(v), n, i) for n, m in moved.items() for i, v in enumerate(m.flatten())), reverse=True)
    limit = int(KEEP * len(every))
    found = {(n, i) for n, mask in recipe.masks.items() for i in mask.flatten().nonzero().flatten().tolist()}
    assert len(found) == limit
    assert every[limit - 1][0] > every[limit][0]  # no tie at the threshold
    assert found == {(n, i) for _, n, i in every[:limit]}
    assert all(torch.equal(own, base) for base, own in recipe.base.values())  # rewound


@torch.no_grad()
def test_random_places_ignore_what_moved_and_follow_the_seed(bench):
    counts = []
    for _ in range(2):
        recipe, _ = planned(bench, random=True)
        first = next(iter(recipe.base))
        recipe.base[first][1].add_(100.0)
        recipe.between(Phase("search", 1))
        counts.append(recipe.masks)
    total = sum(m.numel() for m in counts[0].values())
    assert sum(int(m.sum()) for m in counts[0].values()) == int(KEEP * total)
    assert float(counts[0][first].float().mean()) < 3 * KEEP
    assert all(torch.equal(counts[0][n], counts[1][n]) for n in counts[0])


def test_masked_entries_get_no_gradient_and_are_put_back(bench):
    recipe, _ = planned(bench)
    with torch.no_grad():
        for _, own in recipe.base.values():
            own.add_(torch.randn(own.shape))
    recipe.between(Phase("search", 1))
    for _, own in recipe.base.values():
        own.grad = torch.ones_like(own)
        own.data.add_(1.0)
    recipe.before_update()
    recipe.after_step(1)
    for name, (base, own) in recipe.base.items():
        mask = recipe.masks[name]
        assert torch.equal(own.grad, mask.float())
        assert torch.equal(own[~mask], base[~mask])
        assert not (own[mask] == base[mask]).any()


def test_apply_and_revert_is_bitwise(bench, fresh_host):
    folder, _ = trained(bench)
    host = fresh_host()
    before = {n: t.clone() for n, t in host.state_dict().items() if not n.startswith("classifier")}
    objects = {n: p for n, p in host.named_parameters() if not n.startswith("classifier")}
    adapter = state.restore(host, planted.stored(folder))
    assert differing({n: before[n] for n in objects}, host)
    adapters_of(host).detach(adapter.name)
    assert all(torch.equal(host.state_dict()[n], t) for n, t in before.items())
    adapters_of(host).release()
    assert all(dict(host.named_parameters())[n] is p for n, p in objects.items())


def test_two_sparse_differences_add_up_in_any_order(bench, fresh_host):
    kept = [planted.stored(trained(bench, seed)[0]) for seed in (0, 1)]
    host = fresh_host()
    before = base_of(host)
    adapters = adapters_of(host, ("classifier",))
    for name, one in zip(("task", "language"), kept):
        state.restore(host, one, name)

    @cache
    def change(*names: str) -> dict[str, torch.Tensor]:
        adapters.activate(dict.fromkeys(names, 1.0))
        now = dict(host.named_parameters())
        return {n: now[n].detach() - b for n, b in before.items()}

    both, turned, task, language = change("task", "language"), change("language", "task"), change("task"), change("language")
    assert any(t.any() for t in both.values())
    for name in before:
        assert torch.equal(both[name], turned[name])
        assert torch.allclose(both[name], task[name] + language[name], atol=1e-6)


def test_it_is_stored_as_positions_and_values_and_small(bench):
    (sparse, little), (_, much) = trained(bench), bench.run("bert", "full", **DECAY)
    keys = planted.stored(sparse).tensors
    assert keys
    assert all(k.endswith(("#at", "#to")) for k in keys)
    values = sum(t.numel() for k, t in keys.items() if k.endswith("#to"))
    assert values <= little["trainable_params"]
    head = sum(t.numel() * 4 for t in planted.stored(sparse).head.values())
    assert little["adapter_bytes"] < 8 * values + head + 200 * len(keys) + 400  # an index and a value each, and names
    assert little["adapter_bytes"] < much["adapter_bytes"] / 4


def test_the_head_trains_in_both_phases_and_l1_pulls_towards_the_base(bench, fresh_host):
    free, pulled = trained(bench)[0], trained(bench, l1=1000.0)[0]
    host = fresh_host()
    assert not torch.equal(planted.stored(free).head["classifier.weight"], host.classifier.weight)
    before = base_of(host)
    sizes = []
    for folder in (free, pulled):
        one = fresh_host()
        state.restore(one, planted.stored(folder))
        now = dict(one.named_parameters())
        sizes.append(sum(float((now[n] - b).detach().abs().sum()) for n, b in before.items()))
    assert sizes[1] < sizes[0]


def test_the_phases_share_the_steps(bench):
    reporter = Silent()
    spec = bench.spec("bert", "full", recipe={"recipe": "lt_sft", "search_share": 0.25}, **{**DECAY, "warmup": 0.25})
    _, result = bench.fresh(spec, reporter)
    phases = [(e.name, e.steps) for e in reporter.events if isinstance(e, Phase) and e.steps]
    assert phases == [("search", 2), ("sparse", 6)]
    assert result["steps"] == 8
    rates = [e.lr for e in reporter.events if isinstance(e, Step)]
    assert rates[0] == pytest.approx(DECAY["learning_rate"])  # warm-up of 2 steps rounds to none, of 6 to two
    assert rates[2:5] == pytest.approx([0.0, 0.01, 0.02])


BAD = [
    ({"max_steps": 1}, "full", "lt_sft needs at least 2 optimizer steps, one per phase; this run has 1."),
    ({}, "lora", "the recipe lt_sft needs a method that trains base tensors, e.g. full; lora does not."),
    ({}, "norm_tuning", "the recipe lt_sft keeps norms frozen; norm_tuning trains no other base tensors here."),
]


@pytest.mark.parametrize(("training", "method", "sentence"), BAD)
def test_what_it_cannot_do_is_one_sentence(bench, training, method, sentence):
    with pytest.raises(WorkbenchError) as caught:
        bench.fresh(bench.spec("bert", method, recipe={"recipe": "lt_sft"}, **training))
    assert str(caught.value) == sentence


def test_recipes_are_found_by_name_with_closest_and_bounds():
    assert {"standard", "lt_sft"} <= set(recipes.names())
    with pytest.raises(WorkbenchError, match=r"no recipe is called 'lt_sftt'; closest: lt_sft"):
        recipes.configure({"recipe": "lt_sftt"})
    with pytest.raises(WorkbenchError, match=r"lt_sft\.keep must be above 0"):
        recipes.configure({"recipe": "lt_sft", "keep": 0})
    with pytest.raises(WorkbenchError, match=r"lt_sft\.kept is not a known key; closest: keep"):
        recipes.configure({"recipe": "lt_sft", "kept": 0.1})
    assert lt_sft.LtSft.count(lt_sft.LtSftConfig(keep=1e-6), 100, 100) == 1
