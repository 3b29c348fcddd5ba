"""Movement: planted changes are found where they are, with the size they have."""

import pytest
import torch

from tests.analyses.conftest import batches, disturb
from workbench.analyses.movement import activations, weights
from workbench.analyses.movement import movement as analysis
from workbench.evaluate import evaluation, saved
from workbench.kernel.attach import matrix
from workbench.kernel.host import adapters_of


def rows(result, kind):
    return {(r["depth"], r["role"]): r["value"] for r in result.tables["movement"].to_dict("records") if r["kind"] == kind}


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "vit"])
def test_a_low_rank_change_has_its_own_norm_at_every_site(plant, family):
    run = plant(family, "lora", disturb())
    revived = saved.revive(run.stored, run.adapter)
    expected = {}
    for part in revived.adapter.parts.values():
        weight = matrix(revived.host.get_submodule(part.site.path), part.site)
        expected[part.site.depth, part.site.role] = (part.delta(weight, {}).norm() / weight.norm()).item()
    assert weights(revived) == pytest.approx(expected, rel=1e-5)
    assert rows(analysis([run], {"rows": 4}), "weight") == pytest.approx(expected, rel=1e-5)


def test_a_bridged_adapter_too(plant):
    run = plant("bert", "vera", disturb())
    found = weights(saved.revive(run.stored, run.adapter))
    assert {role for _, role in found} == {"attn.q", "attn.v"}
    assert all(value > 0 for value in found.values())


def test_base_tensors_that_train_count_with_their_share(plant):
    def tenth(adapter):
        for path, own in adapter.chosen.items():
            if "query/weight" in path:
                own.mul_(1.1)

    run = plant("bert", "full", tenth)
    found = rows(analysis([run], {"rows": 4}), "weight")
    assert found == pytest.approx({(0, "attn.q"): 0.1, (1, "attn.q"): 0.1}, rel=1e-5)


@pytest.mark.parametrize("method", ["bottleneck", "prompt_tuning", "read_rnn", "prefix_tuning"])
def test_what_no_weight_can_hold_has_activations(plant, method):
    result = analysis([plant("bert", method, disturb())], {"rows": 4})
    found = rows(result, "activation")
    assert {role for _, role in found} == {"attn.block", "ffn.block", "block.out", "model.out"}
    assert found[-1, "model.out"] > 0
    assert {role for _, role in rows(result, "weight")} <= {"norms"}
    if method == "read_rnn":
        assert not any(value for (depth, _), value in found.items() if depth >= 0), "a side network leaves the blocks alone"
    assert result.figures["activation"]["series"][0]["x"] == [0, 1]


def test_an_untouched_adapter_moved_nothing(plant):
    result = analysis([plant("bert", "lora")], {"rows": 4})
    assert rows(result, "weight") == {}
    assert set(rows(result, "activation").values()) == {0.0}
    assert result.sentences == ["lora s0 did not move the base."]
    assert [name for name in result.figures if name.startswith("weight")] == []


@pytest.mark.parametrize(("family", "lead"), [("bert", 0), ("llama", 0), ("vit", 1)])
def test_virtual_tokens_are_left_out_wherever_the_family_puts_them(plant, family, lead):
    """Against the outputs of a block, aligned by hand."""
    run = plant(family, "prompt_tuning", disturb())
    revived, some = batches(run)
    site = next(s for s in adapters_of(revived.host).sites if (s.depth, s.role) == (0, "block.out"))
    kept, values = [], []
    module = revived.host.get_submodule(site.path)
    hook = module.register_forward_hook(lambda _m, _a, out: kept.append(out if isinstance(out, torch.Tensor) else out[0]))
    with torch.no_grad():
        for batch in some:
            with adapters_of(revived.host).only():
                evaluation.forward(revived.host, batch)
            evaluation.forward(revived.host, batch)
            base, wide = kept[-2:]
            extra = wide.shape[1] - base.shape[1]
            assert extra > 0
            mine = torch.cat([wide[:, :lead], wide[:, lead + extra :]], 1)
            change = (mine - base).norm(dim=-1) / base.norm(dim=-1)
            mask = batch.inputs.get("attention_mask")
            values.append(change.flatten() if mask is None else change[mask.bool()])
    hook.remove()
    assert activations(revived, 8)[0, "block.out"] == pytest.approx(torch.cat(values).mean().item(), rel=1e-5)


def test_the_base_is_bitwise_what_it_was(plant):
    run = plant("gpt2", "lora", disturb())
    revived = saved.revive(run.stored, run.adapter)
    before = {n: (t, t.clone()) for n, t in revived.host.named_parameters() if not n.startswith("workbench")}
    weights(revived)
    activations(revived, 4)
    assert all(dict(revived.host.named_parameters())[n] is t and torch.equal(t, old) for n, (t, old) in before.items())
