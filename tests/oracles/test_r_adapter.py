"""R-Adapter against its equation, folded into the weight, its dropping and its average over steps.

Of the catalogue's acceptance checks, the start is a contract test as well; the chart over the factor a is
`tests/analyses/test_shrinking.py`. The loss for image-text pairs (MPM-NCE) is not built yet, so its check is not here.
"""

import pytest
import torch
from torch import Tensor, nn

from tests.contract import hosts
from tests.contract.checks import disturb
from workbench.core.types import Site
from workbench.kernel import registry, state
from workbench.kernel.adapter import Adapter
from workbench.methods.structured.r_adapter import UNDROPPED_STEPS, RAdapter, RAdapterConfig

GEN = torch.Generator().manual_seed(3)
WEIGHT, BIAS, X = (torch.randn(shape, generator=GEN) for shape in ((5, 7), (5,), (2, 3, 7)))
FORMS = [{}, {"rank": 2}]


def part(**values: object) -> RAdapter:
    cfg = RAdapterConfig(**values)  # type: ignore[arg-type]
    one = RAdapter(cfg, Site("layer", "attn.out", 0, (5, 7), bias=True), None, torch.Generator().manual_seed(0), WEIGHT)
    with torch.no_grad():
        for p in one.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return one


def the_map(one: RAdapter, prefix: str = "") -> Tensor:
    """E in float64."""
    first, *rest = (getattr(one, prefix + name).detach().double() for name in one.names)
    return rest[0] @ first if rest else first


def passed(one: RAdapter) -> Tensor:
    """What a pass adds to the layer's output, bias included, in the kernel's order of calls."""
    return one.apply_to(X @ WEIGHT.T, X, WEIGHT, {}) + one.delta_bias(BIAS, None, {})


def on_host(**values: object) -> tuple[nn.Module, Adapter]:
    model = hosts.host("bert")
    adapter = hosts.adapters(model).attach("a", "r_adapter", registry.configure("r_adapter", values))
    disturb(adapter)
    return model, adapter


@pytest.mark.parametrize("values", FORMS)
def test_equation_in_float64(values: dict) -> None:
    """E (W x + b) is added; W' = W + E W and b' = b + E b; the same for a training pass that is kept."""
    one = part(**values)
    E, y = the_map(one), X.double() @ WEIGHT.double().T + BIAS.double()
    torch.testing.assert_close(passed(one.eval()).double(), y @ E.T, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.delta(WEIGHT, {}).double(), E @ WEIGHT.double(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.delta_bias(BIAS, None, {}).double(), E @ BIAS.double(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(passed(one.train()).double(), y @ E.T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("values", FORMS)
@pytest.mark.parametrize("a", [0.0, 0.5, 1.0])
@torch.no_grad()
def test_folded_it_computes_the_same_for_every_factor(values: dict, a: float) -> None:
    """Merged at a factor a, and at a as the weight of the adapter; a = 0 is the base bit for bit."""
    base = hosts.logits(hosts.host("bert"), "bert")
    shrunk, whole = on_host(rescale=a, **values)[0], on_host(**values)[0]
    out = hosts.logits(shrunk, "bert")
    whole.workbench.activate({"a": a})
    torch.testing.assert_close(hosts.logits(whole, "bert"), out, atol=1e-5, rtol=1e-5)
    shrunk.workbench.merge()
    torch.testing.assert_close(hosts.logits(shrunk, "bert"), out, atol=1e-5, rtol=1e-5)
    assert torch.equal(out, base) == (a == 0.0)
    assert torch.equal(hosts.logits(shrunk, "bert"), base) == (a == 0.0)


def test_the_factor_acts_outside_training_only() -> None:
    one = part(rescale=0.5)
    torch.testing.assert_close(passed(one.eval()), 0.5 * passed(one.train()))


def test_drop_rate_and_expectation() -> None:
    """10,000 passes: within a point of p, and on average what is added without dropping; bias and output drop together."""
    torch.manual_seed(0)
    one, kept = part(drop=0.2).train(), part(drop=0.0)
    whole = passed(kept)
    one.on_step(UNDROPPED_STEPS, 100)
    with torch.no_grad():
        found = [passed(one) for _ in range(10_000)]
    dropped = [not f.any() for f in found]
    assert abs(sum(dropped) / len(found) - 0.2) < 0.01
    torch.testing.assert_close(torch.stack(found).mean(0), whole.detach(), atol=0.02 * float(whole.detach().abs().max()), rtol=0)
    torch.testing.assert_close(next(f for f, gone in zip(found, dropped, strict=True) if not gone), whole.detach() / 0.8)


def test_nothing_drops_outside_training_nor_in_the_first_steps() -> None:
    one = part(drop=0.9)
    for step in range(UNDROPPED_STEPS):
        assert all(passed(one.train()).any() for _ in range(50))
        one.on_step(step + 1, 100)
    one.eval()
    assert len({passed(one).sum().item() for _ in range(50)}) == 1
    one.train()
    assert not all(passed(one).any() for _ in range(50))


def test_a_merge_after_a_dropped_pass_drops_nothing() -> None:
    one = part(drop=0.9).train()
    one.on_step(UNDROPPED_STEPS, 100)
    wanted = the_map(one) @ BIAS.double()
    for _ in range(20):
        passed(one)
        torch.testing.assert_close(one.delta_bias(BIAS, None, {}).double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("values", FORMS)
def test_the_average_follows_its_recursion_and_is_what_evaluation_uses(values: dict) -> None:
    """M <- m M + (1 - m) E with m = min(ema, (1 + t) / (10 + t)), in float64 beside it."""
    one = part(ema=0.6, **values)
    mean = {name: getattr(one, f"mean_{name}").double().clone() for name in one.names}
    gen = torch.Generator().manual_seed(4)
    for step in range(1, 30):
        with torch.no_grad():
            for p in one.parameters():
                p.add_(torch.randn(p.shape, generator=gen))
        one.on_step(step, 29)
        m = min(0.6, (1 + step) / (10 + step))
        mean = {name: m * value + (1 - m) * getattr(one, name).detach().double() for name, value in mean.items()}
    for name, value in mean.items():
        torch.testing.assert_close(getattr(one, f"mean_{name}").double(), value, atol=1e-5, rtol=1e-5)
    y = X.double() @ WEIGHT.double().T + BIAS.double()
    torch.testing.assert_close(passed(one.eval()).double(), y @ the_map(one, "mean_").T, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(the_map(one, "mean_"), the_map(one), atol=1e-2)


def test_the_average_is_what_is_saved(tmp_path) -> None:
    """Loaded without its training, the adapter computes what it computed: from the averages."""
    model, adapter = on_host()
    adapter.on_step(1, 2)
    disturb(adapter, seed=6)
    state.save(tmp_path / "adapter", adapter, {"label": "test"})
    other = hosts.host("bert")
    loaded = state.restore(other, state.read(tmp_path / "adapter"), "b", hosts.head(other))
    assert torch.equal(hosts.logits(other, "bert"), hosts.logits(model, "bert"))
    with torch.no_grad():
        for p in loaded.parameters():
            p.zero_()
    assert torch.equal(hosts.logits(other, "bert"), hosts.logits(model, "bert"))


def test_without_momentum_the_last_step_counts() -> None:
    one = part(ema=0.0)
    one.on_step(1, 1)
    assert torch.equal(one.mean_E, one.E)


def test_published_counts() -> None:
    """CLIP ViT-B/16, both towers: 20,447,232; low rank: layers * 2 * 2 d r."""
    sites = [
        Site(f"{d}.{i}.{r}", r, i, (d, k))
        for d in (768, 512)
        for i in range(12)
        for r, k in (("attn.out", d), ("ffn.down", 4 * d))
    ]
    assert RAdapter.n_params(RAdapterConfig(), sites) == 20_447_232
    assert RAdapter.n_params(RAdapterConfig(rank=4), sites) == 12 * 2 * 2 * (768 + 512) * 4
