"""RoAd against its equation in all variants, its counts, its rotation, and one adapter per example."""

import pytest
import torch

from tests.contract import hosts
from tests.contract.checks import disturb
from tests.oracles import bridged
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.methods.orthogonal.road import RoAd, RoAdConfig

GROUP = 8


def matrix(t, site, variant):
    theta, alpha, half = t["road_theta"], t["road_alpha"], GROUP // 2
    R = torch.zeros(site.d_out, site.d_out, dtype=torch.float64)
    for i in range(site.d_out):
        group, place = divmod(i, GROUP)
        first = place < half
        partner = i + half if first else i - half
        if variant == "road_1":
            cosine = sine = group * half + place % half
        elif variant == "road_2":
            cosine = sine = i
        else:
            cosine, sine = group * 2 * GROUP + place, group * 2 * GROUP + GROUP + place
        R[i, i] = alpha[cosine] * torch.cos(theta[cosine])
        R[i, partner] = alpha[sine] * torch.sin(theta[sine]) * (-1 if first else 1)
    return R


@pytest.mark.parametrize("variant", ["road_1", "road_2", "road_4"])
def test_equation_in_float64(variant: str) -> None:
    """Outputs and bias are multiplied by 2 x 2 blocks over pairs half a group apart."""

    def naive(t, weight, bias, site):
        R = matrix(t, site, variant)
        return R @ weight, R @ bias

    bridged.check("road", naive, variant=variant)


def test_counts_of_the_paper() -> None:
    """RoBERTa-base, all linear layers: 82,944 for RoAd_1, twice and four times that for the others."""
    shapes = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]
    sites = [Site(f"{i}.{j}", "attn.q", i, shape) for i in range(12) for j, shape in enumerate(shapes)]
    counts = [RoAd.n_params(RoAdConfig(variant=v), sites) for v in ("road_1", "road_2", "road_4")]
    assert counts == [82_944, 2 * 82_944, 4 * 82_944]


def test_without_scale_it_keeps_the_norm() -> None:
    """RoAd_1 with a = 1 is a rotation of the output."""
    model, adapter = bridged.attached("road")
    for name, p in adapter.named_trainable().items():
        if "road_alpha" in name:
            p.data.fill_(1)
    site = adapter.sites[0]
    x = torch.randn(5, site.d_in)
    module = model.get_submodule(site.path)
    with model.workbench.only({}):
        before = module(x)
    torch.testing.assert_close(module(x).norm(dim=-1), before.norm(dim=-1), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(module(x), before, atol=1e-3)


def test_mixed_batch_equals_each_example_alone() -> None:
    """Examples of one batch with adapters of their own get what they get alone."""
    model = hosts.host("bert")
    adapters = hosts.adapters(model)
    for number, name in enumerate(("one", "two")):
        disturb(adapters.attach(name, "road", registry.methods()["road"].tiny), number)
    batch = hosts.inputs("bert")
    with torch.no_grad():
        with adapters.per_example(["one", None, "two", "one"]):
            mixed = model(**batch).logits
        alone = []
        for i, name in enumerate(("one", None, "two", "one")):
            with adapters.only({name: 1.0} if name else {}):
                alone.append(model(**{k: v[i : i + 1] for k, v in batch.items()}).logits[0])
    torch.testing.assert_close(mixed, torch.stack(alone), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(mixed[0], mixed[1], atol=1e-3)
