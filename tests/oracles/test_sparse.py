"""Sparse against its definition: exact counts, exact zeros, independent scores, and nothing pruned at random by accident."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.contract import hosts
from workbench import modifiers
from workbench.core.errors import WorkbenchError
from workbench.kernel import registry, state
from workbench.kernel.adapter import Adapter
from workbench.modifiers.sparse import Sparse, SparseConfig, matrices

SCORES = ("snip", "grasp", "magnitude", "random", "synflow")
METHODS = ("lora", "bottleneck")


def build(method: str = "lora", **config: object) -> tuple[nn.Module, Adapter]:
    """A tiny BERT with one adapter."""
    model = hosts.host("bert")
    size = {"lora": {"rank": 3}, "bottleneck": {"bottleneck": 5}}[method]
    return model, hosts.adapters(model).attach("a", method, registry.configure(method, size | config), seed=1)


def losses(model: nn.Module, batches: int = 2) -> list[Callable[[], Tensor]]:
    """Calls that return the cross-entropy of fixed random batches."""

    def one(seed: int) -> Tensor:
        gen = torch.Generator().manual_seed(seed)
        ids, labels = torch.randint(1, 99, (4, 6), generator=gen), torch.randint(0, 3, (4,), generator=gen)
        return nn.functional.cross_entropy(model(input_ids=ids).logits, labels)

    return [lambda s=s: one(s) for s in range(batches)]


def sparse(method: str = "lora", **values: object) -> tuple[nn.Module, Adapter]:
    """The same with the modifier on it."""
    model, adapter = build(method)
    entry = {"modifier": "sparse", **values}
    modifiers.apply_all([entry], adapter, losses(model), torch.Generator().manual_seed(4))
    return model, adapter


def kept(adapter: Adapter) -> list[tuple[int, int]]:
    """(entries that stay, entries) of each matrix, read from the masks."""
    return [(int(m.parametrizations[n][0].keep.sum()), getattr(m, n).numel()) for m, n in matrices(adapter).values()]


def train(model: nn.Module, adapter: Adapter, optimizer: torch.optim.Optimizer, steps: int = 20) -> None:
    """Some optimizer steps on the fixed batches."""
    batches = losses(model)
    for step in range(steps):
        optimizer.zero_grad()
        batches[step % 2]().backward()
        optimizer.step()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("score", SCORES)
def test_kept_fraction_is_exact(score: str, scope: str, method: str) -> None:
    """Within one element of the request, per group, for every score; and `count` predicts it."""
    for keep in (0.37, 0.6):
        _, dense = build(method)
        shapes = {n: tuple(t.shape) for n, t in dense.tensors().items()}
        _, adapter = sparse(method, score=score, scope=scope, keep=keep)
        groups = kept(adapter) if scope == "local" else [tuple(map(sum, zip(*kept(adapter), strict=True)))]
        assert all(abs(stays - keep * n) <= 1 for stays, n in groups)
        vectors = sum(p.numel() for n, p in dense.named_trainable().items() if p.dim() == 1 and n.startswith("parts."))
        assert (
            modifiers.count_all([{"modifier": "sparse", "keep": keep, "scope": scope}], shapes)
            == sum(k for k, _ in kept(adapter)) + vectors
        )


@pytest.mark.parametrize("scope", ["global", "local"])
def test_the_largest_scores_stay(scope: str) -> None:
    """By magnitude, in each group the smallest entry that stays is at least the largest that goes."""
    _, adapter = sparse("bottleneck", score="magnitude", scope=scope, keep=0.4)
    pairs = []
    for module, name in matrices(adapter).values():
        (mask,) = module.parametrizations[name]
        size = module.parametrizations[name].original.abs()
        pairs.append((size[mask.keep], size[~mask.keep]))
    groups = pairs if scope == "local" else [tuple(map(torch.cat, zip(*pairs, strict=True)))]
    assert all(stays.min() >= goes.max() for stays, goes in groups)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("method", METHODS)
def test_pruned_entries_stay_zero(method: str, optimizer: str) -> None:
    """Exactly 0 after 20 steps with momentum and weight decay, while kept entries of every matrix move; biases are not pruned."""
    model, adapter = sparse(method, keep=0.3, scope="local")
    start = {n: t.clone() for n, t in adapter.tensors().items()}
    groups = adapter.param_groups(0.05)
    made = (
        torch.optim.SGD(groups, momentum=0.9, weight_decay=0.1)
        if optimizer == "sgd"
        else torch.optim.AdamW(groups, weight_decay=0.1)
    )
    train(model, adapter, made)
    after = adapter.tensors()
    for module, name in matrices(adapter).values():
        mask = module.parametrizations[name][0].keep
        assert torch.equal(getattr(module, name)[~mask], torch.zeros(int((~mask).sum())))
    assert not [n for n, t in start.items() if torch.equal(t, after[n])], "a tensor did not move"
    for name, tensor in after.items():
        if tensor.dim() == 1 and not name.startswith("base."):
            assert tensor.all(), "a bias was pruned"


@pytest.mark.parametrize("method", METHODS)
def test_snip_is_weight_times_gradient(method: str) -> None:
    """|w dL/dw| over its sum equals finite work done by hand: one multiplier z per entry, dL/dz at z = 1."""
    from torch.func import functional_call

    from workbench.modifiers import sparse as module

    model, adapter = build(method)
    found = matrices(adapter)
    module._leave_zero(found, torch.Generator().manual_seed(4))
    scores = module.snip(adapter, found, losses(model), torch.Generator())
    own = {id(p): n for n, p in model.named_parameters()}
    z = {own[id(getattr(*place))]: torch.ones_like(getattr(*place), requires_grad=True) for place in found.values()}
    weights = dict(model.named_parameters())
    swapped = {n: weights[n].detach() * z[n] for n in z}
    total: Tensor = torch.tensor(0.0)
    for seed in range(2):
        gen = torch.Generator().manual_seed(seed)
        ids, labels = torch.randint(1, 99, (4, 6), generator=gen), torch.randint(0, 3, (4,), generator=gen)
        total = total + nn.functional.cross_entropy(functional_call(model, swapped, kwargs={"input_ids": ids}).logits, labels)
    raw = torch.autograd.grad(total, list(z.values()))
    whole = sum(g.abs().sum() for g in raw)
    for score, g in zip(scores.values(), raw, strict=True):
        assert torch.allclose(score, g.abs() / whole, atol=1e-6)
    assert sum(s.sum() for s in scores.values()).item() == pytest.approx(1, abs=1e-5)


def test_grasp_is_weight_times_hessian_gradient() -> None:
    """w (H g) equals the change of g along itself, by central differences."""
    from workbench.modifiers import sparse as module

    model, adapter = build("lora", roles=["attn.v"], depths=[1])
    with torch.no_grad():
        next(iter(adapter.parts.values())).B.add_(0.05)
    found = matrices(adapter)
    scores = module.grasp(adapter, found, losses(model), torch.Generator())
    leaves = [getattr(*place) for place in found.values()]

    def gradient() -> list[Tensor]:
        return list(torch.autograd.grad(sum(loss() for loss in losses(model)), leaves))

    g, start = gradient(), [p.detach().clone() for p in leaves]
    step = 0.02 / max(d.abs().max().item() for d in g)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, p0, d in zip(leaves, start, g, strict=True):
                p.copy_(p0 + sign * step * d)
        ends.append(gradient())
    for score, p0, up, down in zip(scores.values(), start, *ends, strict=True):
        expected = p0 * (up - down) / (2 * step)
        assert (score - expected).abs().max() < 0.01 * expected.abs().max()
    assert any((s < 0).any() for s in scores.values())
    assert any((s > 0).any() for s in scores.values())


def test_synflow_and_magnitude_need_no_data_and_leave_the_weights_alone() -> None:
    """The same masks with other data and with none; the tensors are what they were."""
    for score in ("synflow", "magnitude"):
        tables = []
        for batches in (losses(hosts.host("bert")), []):
            _, adapter = build()
            with torch.no_grad():
                for part in adapter.parts.values():
                    part.B.copy_(torch.linspace(-1, 2, part.B.numel()).view_as(part.B))
            before = {n: t.clone() for n, t in adapter.tensors().items()}
            Sparse.apply(SparseConfig(score=score, keep=0.5), adapter, batches, torch.Generator())
            tables.append({n: m.parametrizations[a][0].keep for n, (m, a) in matrices(adapter).items()})
            for (module, name), value in zip(matrices(adapter).values(), before.values(), strict=True):
                assert torch.equal(module.parametrizations[name].original, value)
        assert all(torch.equal(a, b) for a, b in zip(tables[0].values(), tables[1].values(), strict=True))


def test_synflow_of_lora_by_hand() -> None:
    """R = 1' s|B||A| 1, so the score of A_ij is |A_ij| s sum_k |B_ki|."""
    from workbench.modifiers import sparse as module

    _, adapter = build(roles=["attn.q"], depths=[0])
    part = next(iter(adapter.parts.values()))
    with torch.no_grad():
        part.B.copy_(torch.linspace(-1, 2, part.B.numel()).view_as(part.B))
    scores = list(module.synflow(adapter, matrices(adapter), [], torch.Generator()).values())
    assert torch.allclose(scores[0], part.A.abs() * part.scale * part.B.abs().sum(0)[:, None], rtol=1e-5)
    assert torch.allclose(scores[1], part.B.abs() * part.scale * part.A.abs().sum(1), rtol=1e-5)


@pytest.mark.parametrize("score", ["snip", "grasp", "magnitude", "synflow"])
def test_zero_matrices_are_drawn_anew_not_pruned_at_random(score: str) -> None:
    """LoRA's B would score 0 everywhere: it starts at N(0, 0.02), and both factors keep something."""
    _, adapter = sparse(score=score, keep=0.5)
    drawn = torch.cat([m.parametrizations[n].original.flatten() for m, n in matrices(adapter).values() if n == "B"])
    assert drawn.std().item() == pytest.approx(0.02, rel=0.2)
    both = {
        n: [k for (k, _), (_, a) in zip(kept(adapter), matrices(adapter).values(), strict=True) if a == n] for n in ("A", "B")
    }
    assert sum(both["A"]) > 0
    assert score == "magnitude" or sum(both["B"]) > 0
    _, untouched = sparse(score="random", keep=0.5)
    assert not any(t.any() for n, t in untouched.tensors().items() if n.endswith(".B"))


def test_scores_that_rank_nothing_are_an_error() -> None:
    """All scores zero, no batch, or no matrix: one sentence, and the adapter is left without masks."""
    _, adapter = build()
    for batches, sentence in (
        ([lambda: sum(p.sum() * 0 for p in adapter.parameters())], "all zero"),
        ([], "at least one training batch"),
    ):
        with pytest.raises(WorkbenchError, match=sentence):
            Sparse.apply(SparseConfig(), adapter, batches, torch.Generator())
        assert not any("parametrizations" in n for n, _ in adapter.named_modules())
    whole = hosts.adapters(hosts.host("bert")).attach("w", "full", registry.configure("full", {}))
    with pytest.raises(WorkbenchError, match="matrices of its own; full has none"):
        Sparse.apply(SparseConfig(score="random"), whole, [], torch.Generator())


def test_keep_one_changes_nothing() -> None:
    """With everything kept, the modified adapter is the unmodified one."""
    model, adapter = build("bottleneck")
    before = model(**hosts.inputs("bert")).logits
    Sparse.apply(SparseConfig(keep=1.0), adapter, losses(model), torch.Generator())
    assert torch.equal(model(**hosts.inputs("bert")).logits, before)


def test_large_sparse_stores_as_much_as_the_dense_one() -> None:
    """Rank 4r at keep 0.25 keeps as many values as rank r."""
    model, adapter = build("lora", rank=12)
    Sparse.apply(SparseConfig(keep=0.25), adapter, losses(model), torch.Generator())
    assert sum(k for k, _ in kept(adapter)) == build("lora", rank=3)[1].new_params()


def test_the_catalogue_figure() -> None:
    """Bottleneck 64 on d 768 at keep 0.2: 19,660 of 98,304 per adapter."""
    shapes = {"site.D": (64, 768), "site.U": (768, 64), "base.norm.weight": (768,)}
    assert Sparse.count(SparseConfig(keep=0.2), shapes) == 19_660


def test_stored_values_are_effective_and_load_into_a_plain_adapter(tmp_path) -> None:
    """The folder holds masked values under plain names; a plain adapter that loads them computes the same, and merges."""
    model, adapter = sparse(keep=0.3)
    train(model, adapter, torch.optim.Adam(adapter.param_groups(0.05)), steps=5)
    model.eval()
    out = model(**hosts.inputs("bert")).logits
    state.save(tmp_path / "adapter", adapter, {})
    stored = state.read(tmp_path / "adapter")
    assert stored.tensors.keys() == build()[1].tensors().keys()
    assert sum(int((t != 0).sum()) for t in stored.tensors.values()) == sum(k for k, _ in kept(adapter))
    again = hosts.host("bert")
    state.restore(again, stored, "b", ("classifier",))
    assert torch.equal(again(**hosts.inputs("bert")).logits, out)
    model.workbench.merge()
    assert torch.allclose(model(**hosts.inputs("bert")).logits, out, atol=1e-5)


def test_loading_into_a_sparse_adapter_reaches_the_matrices() -> None:
    """A second adapter with the same masks takes over the values of the first."""
    model, adapter = sparse(keep=0.3)
    _, other = sparse(keep=0.3)
    train(model, adapter, torch.optim.Adam(adapter.param_groups(0.05)), steps=3)
    other.load(copy.deepcopy(adapter.tensors()))
    assert all(torch.equal(a, b) for a, b in zip(adapter.tensors().values(), other.tensors().values(), strict=True))


def test_masks_survive_casting_the_host() -> None:
    """In bf16 the masked matrices stay fp32 and masked."""
    model, adapter = sparse(keep=0.3)
    before = {n: t.clone() for n, t in adapter.tensors().items()}
    model.to(torch.bfloat16)
    assert all(torch.equal(before[n], t) and t.dtype == torch.float32 for n, t in adapter.tensors().items())


def test_rates_of_lora_plus_survive_the_masks() -> None:
    """Groups hold the matrices under the masks, B still at its multiple of the rate."""
    model, adapter = build(b_rate=16.0)
    Sparse.apply(SparseConfig(), adapter, losses(model), torch.Generator())
    rates = {id(p): g["lr"] for g in adapter.param_groups(0.01) for p in g["params"]}
    for module, name in matrices(adapter).values():
        assert rates[id(module.parametrizations[name].original)] == pytest.approx(0.16 if name == "B" else 0.01)
    assert len(rates) == len(adapter.named_trainable())


def test_discovery_and_bad_values() -> None:
    """Modifiers are found by name; unknown names and values are one sentence."""
    assert modifiers.find("sparse") is Sparse
    assert modifiers.configure("sparse", {"keep": 0.5}) == SparseConfig(keep=0.5)
    for call, sentence in (
        (lambda: modifiers.find("spars"), "closest: sparse"),
        (lambda: modifiers.configure("sparse", {"keep": 0}), "sparse.keep must be above 0"),
        (lambda: modifiers.configure("sparse", {"kep": 1}), "closest: keep"),
        (lambda: modifiers.count_all([{"keep": 1}], {}), "needs `modifier: <name>`"),
    ):
        with pytest.raises(WorkbenchError, match=sentence):
            call()
    words = registry.describe(Sparse)
    assert all(words[k] for k in ("title", "formula", "text", "parameters", "deviates"))


@pytest.mark.parametrize("key", [k for k, cls in registry.methods().items() if cls.kind != "select"])
def test_any_adapter_with_matrices_can_be_sparse(key: str) -> None:
    """Whatever the method, native or peft's: it still trains, its pruned entries stay 0, and it leaves without a trace."""
    from tests.contract import checks

    cls = registry.methods()[key]
    cfg = checks.tiny(cls)
    family = next(f for f in hosts.FAMILIES if checks.fits(key, cls, cfg, f))
    model = hosts.host(family)
    before = hosts.snapshot(model)
    adapter = hosts.adapters(model).attach("a", key, cfg)
    if not matrices(adapter):
        with pytest.raises(WorkbenchError, match="matrices of its own"):
            Sparse.apply(SparseConfig(score="random"), adapter, [], torch.Generator())
        return
    Sparse.apply(SparseConfig(keep=0.5), adapter, [lambda: hosts.loss(model, family)], torch.Generator().manual_seed(0))
    start = {n: getattr(m, a).detach().clone() for n, (m, a) in matrices(adapter).items()}
    optimizer = torch.optim.AdamW(adapter.param_groups(0.01), weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        hosts.loss(model, family).backward()
        optimizer.step()
    for name, (module, attribute) in matrices(adapter).items():
        now, mask = getattr(module, attribute), module.parametrizations[attribute][-1].keep
        assert not now[~mask].any()
        assert not mask.any() or not torch.equal(now, start[name])
    assert any(not torch.equal(getattr(m, a), start[n]) for n, (m, a) in matrices(adapter).items())
    model.workbench.release()
    assert not hosts.differences(before, hosts.snapshot(model))
