"""KAdaptation against explicit Kronecker products, its sharing, its start and the published count.

Of the catalogue's acceptance checks, merging is a contract test as well; few-shot digits beside LoRA is the paper file
`107-kadaptation.yaml`. The ranking of submodules by local intrinsic dimension is an analysis, not part of the method.
"""

import pytest
import torch

from tests.contract import hosts
from tests.contract.checks import disturb
from tests.oracles.peak import peak_bytes
from workbench.core.errors import WorkbenchError
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.kernel.adapter import Adapter
from workbench.methods.structured.kadaptation import KAdaptation, KAdaptationConfig


def parts(shape: tuple[int, int] = (8, 12), p: int = 4, **options: object) -> list[KAdaptation]:
    """q and v of two blocks with a bias, away from their start."""
    sites = [Site(f"{d}.{r}", f"attn.{r}", d, shape, bias=True) for d in (0, 1) for r in ("q", "v")]
    cfg, gen = KAdaptationConfig(p=p, **options), torch.Generator().manual_seed(0)
    shared = KAdaptation.build_shared(cfg, sites, gen)
    made = [KAdaptation(cfg, s, shared, gen, torch.zeros(s.shape)) for s in sites]
    with torch.no_grad():
        for one in [shared, *made]:
            for t in one.parameters():
                t.add_(0.5 * torch.randn(t.shape, generator=gen))
    return made


def test_equation_in_float64() -> None:
    """s sum_i kron(s_i t_i^T, u_i v_i^T) x + c, by torch.kron, for a weight that is not square."""
    x = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(4))
    for one in parts(scale=1.5):
        role = one.site.role.replace(".", "_")
        s, t = one.shared.s[role].double(), one.shared.t[role].double()
        change = sum(torch.kron(torch.outer(s[i], t[i]), torch.outer(one.u[i].double(), one.v[i].double())) for i in range(4))
        torch.testing.assert_close(one.delta(torch.zeros(8, 12), {}).double(), 1.5 * change, atol=1e-6, rtol=1e-5)
        got = one.apply_to(None, x, torch.zeros(8, 12), {}).double()
        torch.testing.assert_close(got, x.double() @ (1.5 * change).T, atol=1e-5, rtol=1e-5)
        assert torch.equal(one.delta_bias(torch.zeros(8), None, {}), one.shared.c[f"main_main_{one.site.depth}_8"])


def test_change_has_rank_p() -> None:
    """Each term has rank 1, p of them rank p."""
    assert {int(torch.linalg.matrix_rank(one.delta(torch.zeros(16, 16), {}))) for one in parts((16, 16))} == {4}


def trained(family: str, p: int = 4) -> tuple[torch.nn.Module, Adapter]:
    """A tiny host with the adapter on it as it starts."""
    model = hosts.host(family)
    return model, hosts.adapters(model).attach("a", "kadaptation", registry.configure("kadaptation", {"p": p}))


def test_first_step_moves_the_fast_factors() -> None:
    """u is zero and v is not, so the very first step changes every u; with both at zero none would ever move."""
    model, adapter = trained("bert")
    for _, part in adapter.named_parts():
        assert not part.u.any()
        assert part.v.abs().min() > 0
    before = {n: p.detach().clone() for n, p in adapter.named_trainable().items()}
    optimizer = torch.optim.Adam(adapter.param_groups(1e-3))
    hosts.loss(model, "bert").backward()
    optimizer.step()
    moved = {n.rsplit(".", 1)[1] for n, p in adapter.named_trainable().items() if not torch.equal(p, before[n])}
    assert "u" in moved
    with torch.no_grad():
        for _, part in adapter.named_parts():
            part.u.zero_()
            part.v.zero_()
    optimizer.zero_grad()
    hosts.loss(model, "bert").backward()
    assert not any(p.grad is not None and p.grad.any() for _, part in adapter.named_parts() for p in part.parameters())


def test_slow_factors_are_one_object_per_role_and_biases_per_block() -> None:
    """q and v have a set each, the same tensors in every layer; q and v of a block share c; each is stored once."""
    adapter = trained("bert")[1]
    disturb(adapter)
    by_role: dict[str, set[int]] = {}
    for site, (_, part) in zip(adapter.sites, adapter.named_parts(), strict=True):
        by_role.setdefault(site.role, set()).add(id(part.shared.get_parameter(f"s.{site.role.replace('.', '_')}")))
    assert {role: len(ids) for role, ids in by_role.items()} == {"attn.q": 1, "attn.v": 1}
    assert by_role["attn.q"] != by_role["attn.v"]
    stored = sorted(n for n in adapter.tensors() if n.startswith("shared."))
    assert stored == sorted([f"shared.{k}.attn_{r}" for k in "st" for r in "qv"] + [f"shared.c.main_main_{d}_32" for d in (0, 1)])
    assert sum(t.numel() for t in adapter.tensors().values()) == 2 * 5 * 32 + 4 * 4**2


def test_no_bias_where_the_layer_has_none() -> None:
    """LLaMA's projections have no bias, so there is no c, and no tensor that could not be merged."""
    adapter = trained("llama")[1]
    assert not [n for n in adapter.tensors() if n.startswith("shared.c")]


def test_never_as_large_as_the_weight() -> None:
    """Forward and backward on a wide layer need a quarter of what the dense change needs."""
    one, x = parts((1024, 1024), p=16)[0], torch.randn(16, 1024)
    weight = torch.zeros(1024, 1024)
    lean = peak_bytes(lambda: one.apply_to(None, x, weight, {}).sum().backward())
    dense = peak_bytes(lambda: (x @ one.delta(weight, {}).T).sum().backward())
    assert lean < weight.nbytes / 4 < weight.nbytes < dense


def test_dropout_keeps_the_expected_value() -> None:
    """Inputs of the change are dropped and rescaled while training only."""
    torch.manual_seed(0)
    one, x, weight = parts(dropout=0.5)[0].train(), torch.randn(1, 12), torch.zeros(8, 12)
    mean = torch.stack([one.apply_to(None, x, weight, {}).detach() for _ in range(4000)]).mean(0)
    wanted = one.eval().apply_to(None, x, weight, {}).detach()
    assert (mean - wanted).abs().max() < 0.1 * wanted.abs().max()


def test_published_count() -> None:
    """ViT-B, p = 32: 50,176, which is the paper's 79,699 less its linear probe of 29,523."""
    sites = [Site(f"{i}.{r}", f"attn.{r}", i, (768, 768), bias=True) for i in range(12) for r in ("q", "v")]
    assert KAdaptation.n_params(KAdaptationConfig(), sites) == 12 * 5 * 768 + 4 * 32**2 == 79_699 - 29_523


def test_refuses_a_width_that_p_does_not_divide() -> None:
    """A problem of the plan, in one sentence."""
    with pytest.raises(WorkbenchError, match="32 x 32, p is 5"):
        trained("bert", p=5)
