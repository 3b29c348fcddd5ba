"""MSPLoRA against the sum of its three products, its sharing in every layer, and the published counts.

Of the catalogue's acceptance checks, the start and merging are contract tests as well; half of LoRA's parameters at equal
accuracy is the paper file `106-msplora.yaml`.
"""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from tests.contract import hosts
from tests.contract.checks import disturb
from workbench.core.errors import WorkbenchError
from workbench.core.types import Site
from workbench.kernel import registry, state
from workbench.kernel.adapter import Adapter
from workbench.kernel.host import adapters_of
from workbench.methods.low_rank.lora import LoRA, LoRAConfig
from workbench.methods.shared_bank.msplora import MSPLoRA, MSPLoRAConfig, Pair, sharing

WEIGHT = torch.zeros(32, 32)


def six_layers(**values: object) -> tuple[BertForSequenceClassification, Adapter]:
    """A 6-block BERT, so that each third has two blocks, with a disturbed adapter."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=6,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=16,
    )
    model = BertForSequenceClassification(config).eval()
    adapter = adapters_of(model, ("classifier",)).attach("a", "msplora", registry.configure("msplora", {"rank": 8, **values}))
    disturb(adapter)
    return model, adapter


def shared_pair(one: MSPLoRA, scale: int) -> Pair:
    return one.shared.pairs[one.shared.of[one.site.key][scale]]  # type: ignore[return-value]


def test_equation_in_float64() -> None:
    """sum over the three scales of alpha / r_k B_k A_k, with the ranks 8, 4 and 2."""
    adapter = six_layers(alpha=12.0)[1]
    tensors, x = adapter.tensors(), torch.randn(3, 32, generator=torch.Generator().manual_seed(4))
    for site, (_, one) in zip(adapter.sites, adapter.named_parts(), strict=True):
        kind = f"shared.pairs.main_main_{site.role.replace('.', '_')}_32x32"
        wanted = torch.zeros(32, 32, dtype=torch.float64)
        for name, rank in ((f"{kind}_global", 8), (f"{kind}_mid{site.depth // 2}", 4), (f"{site.key}.layer", 2)):
            A, B = tensors[f"{name}.A"].double(), tensors[f"{name}.B"].double()
            assert A.shape == (rank, 32)
            wanted += 12.0 / rank * (B @ A)
        torch.testing.assert_close(one.delta(WEIGHT, {}).double(), wanted, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(one.apply_to(None, x, WEIGHT, {}).double(), x.double() @ wanted.T, atol=1e-5, rtol=1e-5)


def test_who_shares_what() -> None:
    """One global pair per role, a mid pair within each third only, and every tensor is there once."""
    adapter = six_layers()[1]
    parts = [one for _, one in adapter.named_parts()]
    for role in ("attn.q", "attn.v"):
        mine = sorted((one for one in parts if one.site.role == role), key=lambda one: one.site.depth)
        assert len({id(shared_pair(one, 0).A) for one in mine}) == 1
        mids = [id(shared_pair(one, 1).A) for one in mine]
        assert [mids[d] == mids[d + 1] for d in range(5)] == [True, False, True, False, True]
        assert len(set(mids)) == 3
    assert shared_pair(parts[0], 0) is not shared_pair(parts[1], 0)
    assert sum(t.numel() for t in adapter.tensors().values()) == MSPLoRA.n_params(adapter.cfg, adapter.sites)


@pytest.mark.parametrize("scale", [0, 1])
def test_a_shared_pair_acts_in_every_layer_that_borrows_it(scale: int) -> None:
    """Zeroing the global B changes what every layer adds, zeroing one mid B what its third adds, and nothing else."""
    parts = [one for _, one in six_layers()[1].named_parts()]
    before = [one.delta(WEIGHT, {}).detach().clone() for one in parts]
    pair = shared_pair(parts[0], scale)
    with torch.no_grad():
        pair.B.zero_()
    changed = {
        (one.site.role, one.site.depth)
        for one, old in zip(parts, before, strict=True)
        if not torch.equal(one.delta(WEIGHT, {}), old)
    }
    assert changed == {(parts[0].site.role, d) for d in (range(6) if scale == 0 else range(2))}


def test_gradients_of_a_shared_pair_come_from_all_its_layers() -> None:
    """The gradient of the global B is the sum of what each layer alone gives it."""
    parts = [one for _, one in six_layers()[1].named_parts() if one.site.role == "attn.q"]
    x, pair = torch.randn(3, 32, generator=torch.Generator().manual_seed(4)), shared_pair(parts[0], 0)
    alone = [torch.autograd.grad(one.apply_to(None, x, WEIGHT, {}).sum(), pair.B)[0] for one in parts]
    total = torch.autograd.grad(sum(one.apply_to(None, x, WEIGHT, {}).sum() for one in parts), pair.B)[0]
    torch.testing.assert_close(total, sum(alone))
    assert all(g.any() for g in alone)


def test_stored_once_and_shared_after_loading(tmp_path: Path) -> None:
    """The file is as small as the formula says, and a loaded adapter shares the same way."""
    model, adapter = six_layers()
    state.save(tmp_path / "adapter", adapter, {"label": "test"})
    size = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    count = MSPLoRA.n_params(adapter.cfg, adapter.sites)
    assert 4 * count <= size <= 4 * count + 200 * len(adapter.tensors()) + 1000
    model.workbench.detach("a")
    loaded = state.restore(model, state.read(tmp_path / "adapter"), "b", ("classifier",))
    assert all(torch.equal(t, adapter.tensors()[n]) for n, t in loaded.tensors().items())
    globals_ = {id(shared_pair(one, 0)) for _, one in loaded.named_parts()}
    assert len(globals_) == 2


def test_ranges_are_contiguous_and_nearly_equal() -> None:
    """Seven layers in three ranges, two layers in two; another width or tower is another type."""

    def ranges(n: int) -> list[int]:
        sites = [Site(f"{i}", "attn.q", i, (8, 8)) for i in range(n)]
        return [int(sharing(MSPLoRAConfig(), sites)[f"{i}"][1][-1]) for i in range(n)]

    assert ranges(7) == [0, 0, 0, 1, 1, 2, 2]
    assert ranges(2) == [0, 1]
    assert len(set(ranges(32))) == 3
    others = [Site("a", "attn.q", 0, (8, 8)), Site("b", "attn.q", 1, (4, 8)), Site("c", "attn.q", 0, (8, 8), tower="text")]
    assert len({first for first, _ in sharing(MSPLoRAConfig(), others).values()}) == 3


def test_published_counts() -> None:
    """LLaMA-2-7B, q and v, r = 64: 11,010,048 (LoRA 33,554,432); RoBERTa-base, r = 8: 135,168 (LoRA 294,912)."""
    for layers, width, rank, ours, lora in ((32, 4096, 64, 11_010_048, 33_554_432), (12, 768, 8, 135_168, 294_912)):
        sites = [Site(f"{i}.{r}", r, i, (width, width)) for i in range(layers) for r in ("attn.q", "attn.v")]
        assert MSPLoRA.n_params(MSPLoRAConfig(rank=rank), sites) == ours
        assert LoRA.n_params(LoRAConfig(rank=rank), sites) == lora


def test_refuses_a_rank_that_cannot_be_divided() -> None:
    """A layer's pair needs at least rank 1."""
    with pytest.raises(WorkbenchError, match="at least decay"):
        hosts.adapters(hosts.host("bert")).attach("a", "msplora", registry.configure("msplora", {"rank": 3}))
