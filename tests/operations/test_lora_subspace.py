"""The subspace that LoRA adapters share, and what becomes of its result."""

import itertools
import random
from typing import Any

import pytest
import torch

from tests.train import planted
from workbench import operations, tasks
from workbench.core.data_spec import DataSpec
from workbench.core.errors import WorkbenchError
from workbench.core.run_spec import AdapterRef
from workbench.kernel import state
from workbench.kernel.state import Stored

RANK = 4


@pytest.fixture
def host(bench):
    return tasks.find("text_classification")(bench.base("bert"), ("neg", "pos"), 24).host(0)


def some(bench: Any, count: int = 3, **more: Any) -> list[Stored]:
    return [planted.stored(bench.run("bert", seed=s, **more)[0]) for s in range(count)]


def subspace(adapters: list[Stored], host: torch.nn.Module, **settings: Any) -> Stored:
    return operations.find("lora_subspace")(adapters, host, settings)


def errors(made: Stored) -> list[float]:
    return [one["error"] for one in made.meta["reconstruction"]]


def logits(stored: Stored, host: torch.nn.Module) -> torch.Tensor:
    rows = {k.removeprefix("input."): v for k, v in stored.reference.items() if k.startswith("input.")}
    adapter = state.restore(host, stored)
    with torch.no_grad():
        out = host(**rows).logits
    host.workbench.release()
    assert adapter.key == stored.meta["method"]
    return out


def change(stored: Stored, key: str, scale: float = 4.0) -> torch.Tensor:
    """s B A of a stored LoRA, in float64."""
    return scale * stored.tensors[f"{key}.B"].double() @ stored.tensors[f"{key}.A"].double()


def keys(stored: Stored) -> list[str]:
    return sorted({k.rpartition(".")[0] for k in stored.tensors})


def test_of_one_it_is_that_one(bench, host):
    """f([a]) == a: the same logits with the same head, at K = r."""
    one = some(bench, 1)[0]
    made = subspace([one], host)
    assert made.meta["method"] == "eigenlorax"
    assert (made.meta["config"]["rank"], made.meta["config"]["components"]) == (RANK, RANK)
    assert errors(made)[0] < 1e-5
    again = Stored(made.meta, made.tensors, made.head, one.reference)
    torch.testing.assert_close(logits(again, host), logits(one, host), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("centre", ["none", "kept"])
def test_all_directions_bring_every_source_back(bench, host, centre):
    sources = some(bench)
    made = subspace(sources, host, centre=centre)
    assert made.meta["config"]["components"] == 3 * RANK
    assert max(errors(made)) < 1e-4
    for key in keys(sources[0]):
        va, vb = (made.tensors[f"{key}.V_{n}"].double() for n in "AB")
        for one in sources:
            wanted = change(one, key)
            assert float((vb @ (vb.T @ wanted @ va) @ va.T - wanted).norm() / wanted.norm()) < 1e-4


def test_the_error_never_grows_with_k_and_is_what_the_bases_lose(bench, host):
    sources = some(bench)
    for centre in ("none", "kept", "dropped"):
        found = [errors(subspace(sources, host, components=k, centre=centre)) for k in (1, 2, 4, 6, 9, 12)]
        for a, b in itertools.pairwise(found):
            assert all(y <= x + 1e-6 for x, y in zip(a, b, strict=True))
    made = subspace(sources, host, components=4)
    lost = total = 0.0
    for key in keys(sources[0]):
        va, vb = (made.tensors[f"{key}.V_{n}"].double() for n in "AB")
        wanted = change(sources[1], key)
        lost += float((vb @ vb.T @ wanted @ va @ va.T - wanted).square().sum())
        total += float(wanted.square().sum())
    assert errors(made)[1] == pytest.approx((lost / total) ** 0.5, rel=1e-4)
    shares = made.meta["spectrum"]["A"]
    assert len(shares) == 4
    assert shares == sorted(shares)
    assert 0 < shares[0] <= shares[-1] <= 1


def test_the_bases_are_the_principal_directions(bench, host):
    """V spans what the eigenvectors of M M^T span, here from the concatenated columns in float64."""
    sources = some(bench)
    made = subspace(sources, host, components=5)
    for key in keys(sources[0]):
        columns = torch.cat([one.tensors[f"{key}.A"].T.double() for one in sources], 1)
        values, vectors = torch.linalg.eigh(columns @ columns.T)
        wanted, got = vectors[:, -5:], made.tensors[f"{key}.V_A"].double()
        torch.testing.assert_close(got @ got.T, wanted @ wanted.T, atol=1e-4, rtol=0)
        assert values[-5] > values[-6]


def test_without_its_mean_a_source_cannot_come_back(bench, host):
    """`dropped` loses a column that all sources share, which `kept` keeps as its first."""
    one = some(bench, 1)[0]
    shift = {k: t + (5.0 if k.endswith(".A") else 0.0) for k, t in one.tensors.items()}
    sources = [Stored(one.meta, shift, one.head), Stored(one.meta, {k: 0.9 * t for k, t in shift.items()}, one.head)]
    kept, dropped = (subspace(sources, host, components=RANK, centre=c) for c in ("kept", "dropped"))
    assert max(errors(kept)) < 0.5 * min(errors(dropped))


def test_extra_columns_are_orthonormal_to_the_principal_ones(bench, host):
    sources = some(bench)
    bare, made = subspace(sources, host, components=6), subspace(sources, host, components=6, extra=10)
    assert made.meta["config"]["components"] == 16
    for key in keys(sources[0]):
        for name in ("V_A", "V_B"):
            basis = made.tensors[f"{key}.{name}"]
            torch.testing.assert_close(basis.T @ basis, torch.eye(16), atol=1e-5, rtol=0)
            assert torch.equal(basis[:, :6], bare.tensors[f"{key}.{name}"])
    assert not torch.equal(subspace(sources, host, extra=10, seed=1).tensors[f"{key}.V_A"], made.tensors[f"{key}.V_A"])


def test_loadings_are_those_asked_for(bench, host):
    sources = some(bench)
    made = {name: subspace(sources, host, components=6, loadings=name) for name in ("first", "mean", "zero", "uniform")}
    key = keys(sources[0])[0]
    basis, factors = made["mean"].tensors[f"{key}.V_A"], [one.tensors[f"{key}.A"].T for one in sources]
    torch.testing.assert_close(made["first"].tensors[f"{key}.C_A"], basis.T @ factors[0])
    torch.testing.assert_close(made["mean"].tensors[f"{key}.C_A"], basis.T @ sum(factors) / 3)
    assert not made["zero"].tensors[f"{key}.C_B"].any()
    assert made["zero"].tensors[f"{key}.C_A"].any()
    assert made["zero"].meta["config"]["zero_b"]
    assert made["uniform"].tensors[f"{key}.C_B"].any()
    assert made["uniform"].tensors[f"{key}.C_B"].abs().max() <= 0.5
    fresh = {n: v for n, v in host.state_dict().items() if n.startswith("classifier")}
    for name, one in made.items():
        assert all(torch.equal(one.head[n], v if name in ("zero", "uniform") else sources[0].head[n]) for n, v in fresh.items())


def test_scales_are_folded_in(bench, host):
    """A LoRA of twice the alpha and half of B is the same source."""
    one = some(bench, 1)[0]
    meta = {**one.meta, "config": {**one.meta["config"], "alpha": 2 * one.meta["config"]["alpha"]}}
    twin = Stored(meta, {k: t / 2 if k.endswith(".B") else t for k, t in one.tensors.items()}, one.head)
    mine, other = subspace([one], host), subspace([twin], host)
    assert all(torch.allclose(t, other.tensors[k], atol=1e-6) for k, t in mine.tensors.items())


def test_a_run_starts_from_the_subspace_and_leaves_it_bitwise(bench, home, tmp_path):
    """Through the `operate` job and `init_from`: V stays, the loadings move, 2 K r per site train."""
    folders = [bench.run("bert", seed=s)[0] for s in range(3)]
    settings = {"components": 6, "extra": 2, "loadings": "zero"}
    request = {"operation": "lora_subspace", "adapters": [str(f) for f in folders], "settings": settings, "name": "shared"}
    result = operations.run_job(request, tmp_path)
    assert result["method"] == "eigenlorax"
    folder = home / "adapters" / "shared"
    start = state.read(folder)
    assert len(start.meta["reconstruction"]) == 3
    ref = AdapterRef(path=str(folder), sha256=start.meta["sha256"][state.WEIGHTS])
    config = {"rank": RANK, "components": 8, "zero_b": True}
    run, figures = bench.fresh(bench.spec("bert", "eigenlorax", seed=5, init_from=ref, config=config))
    done = planted.stored(run)
    for name, value in done.tensors.items():
        assert torch.equal(value, start.tensors[name]) == (".V_" in name), name
    assert figures["trainable_params"] == len(keys(start)) * 2 * 8 * RANK


def test_refusals_are_one_sentence(bench, host):
    sources = some(bench)
    full = planted.stored(bench.run("bert", "full")[0])
    wider = planted.stored(bench.run("bert", config={"rank": 3})[0])
    cases = [
        ([full], {}, r"^lora_subspace reads adapters of the method lora; got one of full\.$"),
        ([sources[0], wider], {}, r"^lora_subspace needs adapters with the same sites and rank; these differ\.$"),
        (sources, {"components": 13}, r"^components must be at most 12 for 3 adapters of rank 4; got 13: set extra for more"),
        (sources, {"extra": 32}, r"^components and extra must add up to at most 32, the narrowest side; got 0 and 32\.$"),
        (sources, {"components": 9, "extra": 30}, r"at most 32, the narrowest side; got 9 and 30\.$"),
        (sources, {"centre": "half"}, r"lora_subspace\.centre"),
    ]
    for adapters, settings, sentence in cases:
        with pytest.raises(WorkbenchError, match=sentence):
            subspace(adapters, host, **settings)
    assert not hasattr(host, "workbench")


@pytest.mark.slow
def test_earlier_adapters_of_related_rules_help_a_new_one(bench, tmp_path):
    """Six rules of one grammar give the subspace; a seventh is learnt in it as well as by a fresh LoRA of 8/3 its size.

    A random subspace of the same size does worse. Rates are chosen on validation rows, each from the same two.
    """
    words, width = (*planted.GOOD, *planted.BAD, *planted.PLAIN), 12

    def spec(number: int, method: str, **more: Any) -> Any:
        rng = random.Random(number)
        value = dict(zip(words, rng.sample([1, -1] * (len(words) // 2), len(words)), strict=True))
        rows = {}
        while len(rows) < 1200:
            said = rng.choices(words, k=5)
            rows[" ".join(said)] = "pos" if sum(value[w] for w in said) > 0 else "neg"
        file = planted.csv(tmp_path / f"rule{number}.csv", "text,label", list(rows.items()))
        data = DataSpec(source=str(file), test=0.4, validation=0.1, limit=more.pop("limit", None))
        facts = {"max_steps": 150, "batch_size": 16, "learning_rate": 5e-3, "eval_every": 9999, **more}
        return planted.spec(bench.base("bert"), "text_classification", data, method, **facts)

    made_host = tasks.find("text_classification")(bench.base("bert"), ("neg", "pos"), 24).host(0)
    sources = [planted.stored(bench.fresh(spec(n, "lora", seed=n))[0]) for n in range(6)]
    made = subspace(sources, made_host, components=width, loadings="zero")
    meta = {k: v for k, v in made.meta.items() if k not in ("method", "config", "sha256", "format")}
    state.save(tmp_path / "shared", state.restore(made_host, made), meta, made.head)
    ref = AdapterRef(path=str(tmp_path / "shared"), sha256=state.read(tmp_path / "shared").meta["sha256"][state.WEIGHTS])
    config = {"rank": RANK, "components": width, "zero_b": True}
    found: dict[str, list[dict[str, Any]]] = {}
    for name, method, more in (
        ("recycled", "eigenlorax", {"config": config, "init_from": ref}),
        ("random", "eigenlorax", {"config": config}),
        ("lora", "lora", {}),
    ):
        few = [spec(99, method, seed=s, limit=300, learning_rate=(5e-3, 2e-2), **more) for s in (0, 1)]
        found[name] = [bench.fresh(one)[1] for one in few]
    accuracy = {n: sum(r["metrics"]["accuracy"] for r in some) / len(some) for n, some in found.items()}
    assert accuracy["recycled"] >= accuracy["lora"] - 0.02
    assert accuracy["recycled"] >= accuracy["random"] + 0.02
    assert found["recycled"][0]["trainable_params"] == 3 / 8 * found["lora"][0]["trainable_params"]
