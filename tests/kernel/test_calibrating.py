"""Calibration: every part sees its site's real inputs on the bare base, and nothing else changes."""

import pytest
import torch

from tests.contract import hosts
from workbench.kernel.calibrating import calibrate
from workbench.kernel.contract import WeightPart


def test_parts_see_the_inputs_of_the_bare_base_without_padding(monkeypatch):
    model = hosts.host("bert")
    adapters = hosts.adapters(model)
    adapter = adapters.attach("adapter", "lora", lora())
    seen, prepared = {}, []
    monkeypatch.setattr(WeightPart, "observe", lambda self, x: seen.setdefault(self.site.key, []).append(x))
    monkeypatch.setattr(WeightPart, "prepare", lambda self, weight: prepared.append(self.site.key))
    with torch.no_grad():
        for p in adapter.parameters():
            p.normal_()
    ids = torch.tensor([[3, 4, 5, 0], [6, 7, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    model.train()
    calibrate(adapters, adapter, [lambda: model(input_ids=ids, attention_mask=mask)] * 2)
    assert model.training
    assert sorted(seen) == sorted(prepared) == sorted(s.key for s in adapter.sites)
    assert all(len(found) == 2 and found[0].shape == (5, s.d_in) for s, found in zip(adapter.sites, seen.values(), strict=True))
    adapters.detach("adapter")
    wanted = []
    last = adapter.sites[-1]  # its inputs depend on every change before it
    module = model.get_submodule(last.path)
    handle = module.register_forward_pre_hook(lambda _, args: wanted.append(args[0]))
    with torch.no_grad():
        model.eval()(input_ids=ids, attention_mask=mask)
    handle.remove()
    assert torch.equal(seen[last.key][0], wanted[0][mask.bool()])


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_weight_parts_prepare_the_weight_they_were_built_from(monkeypatch, family):
    model = hosts.host(family)
    adapters = hosts.adapters(model)
    built, given = {}, {}
    start = WeightPart.__init__
    monkeypatch.setattr(
        WeightPart,
        "__init__",
        lambda self, cfg, site, s, g, w: (built.setdefault(site.key, w), start(self, cfg, site, s, g, w))[1],
    )
    monkeypatch.setattr(WeightPart, "prepare", lambda self, weight: given.setdefault(self.site.key, weight))
    adapter = adapters.attach("adapter", "lora", lora())
    calibrate(adapters, adapter, [lambda: hosts.logits(model, family)])
    assert given.keys() == built.keys() == {s.key for s in adapter.sites}
    assert all(torch.equal(given[k], built[k]) for k in built)


def lora():
    """LoRA on queries and values."""
    from workbench.kernel import registry

    return registry.configure("lora", {"rank": 2, "roles": ["attn.q", "attn.v"]})
