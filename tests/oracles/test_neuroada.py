"""NeuroAda against its equation, the dense scatter, the gathered dense gradient, and the published count.

Of the catalogue's acceptance checks, the start and merging are contract tests as well; k = 1, 4 and 16 beside LoRA is the
paper file `054-neuroada.yaml`. The 60 percent lower CUDA memory of the abstract is not tested: it is a figure of a 7 B model.
"""

import pytest
import torch
from torch import nn

from tests.contract import hosts
from tests.contract.checks import disturb
from tests.oracles.peak import peak_bytes
from workbench.core.errors import WorkbenchError
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.methods.selection.neuroada import NeuroAda, NeuroAdaConfig

WEIGHT = torch.randn(5, 7, generator=torch.Generator().manual_seed(3))
X = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(4))


def part(weight: torch.Tensor = WEIGHT, k: int = 3, **options: object) -> NeuroAda:
    """A part away from its start."""
    site = Site("layer", "attn.q", 0, tuple(weight.shape))
    one = NeuroAda(NeuroAdaConfig(k=k, **options), site, None, torch.Generator().manual_seed(0), weight)
    with torch.no_grad():
        one.theta.normal_(generator=torch.Generator().manual_seed(1))
    return one


def test_equation_in_float64() -> None:
    """Each neuron's sum over its k largest |W|, found by sorting, in plain loops."""
    one = part()
    wanted = torch.zeros(2, 4, 5, dtype=torch.float64)
    for i in range(5):
        columns = sorted(range(7), key=lambda j: -abs(WEIGHT[i, j].item()))[:3]
        assert one.get_buffer("index")[i].tolist() == columns
        for j, column in enumerate(columns):
            wanted[..., i] += one.theta[i, j].item() * X[..., column].double()
    torch.testing.assert_close(one.apply_to(None, X, WEIGHT, {}).double(), wanted, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(X @ one.delta(WEIGHT, {}).T, wanted.float(), atol=1e-6, rtol=1e-6)


def test_start_is_the_base_bit_for_bit() -> None:
    """theta = 0 adds nothing at all."""
    fresh = NeuroAda(NeuroAdaConfig(k=3), Site("l", "attn.q", 0, (5, 7)), None, torch.Generator().manual_seed(0), WEIGHT)
    assert not fresh.apply_to(None, X, WEIGHT, {}).any()


def test_gradient_is_the_dense_one_gathered() -> None:
    """d theta = (dW)[i, I[i, j]] and d x = g W', in float64 through both orders."""
    one, x = part().double(), X.double().requires_grad_()
    pull = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    (one.apply_to(None, x, WEIGHT, {}) * pull).sum().backward()
    dense = one.delta(WEIGHT.double(), {}).detach().requires_grad_()
    other = X.double().requires_grad_()
    (other @ dense.T * pull).sum().backward()
    torch.testing.assert_close(one.theta.grad, dense.grad.gather(1, one.index), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(x.grad, other.grad, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("selection", ["magnitude", "reverse", "random"])
def test_every_row_changes_in_k_places(selection: str) -> None:
    """k columns a row: those of the largest |W|, of the smallest, or drawn anew for every seed."""
    weight = torch.randn(40, 30, generator=torch.Generator().manual_seed(6))
    change = part(weight, k=5, selection=selection).delta(weight, {})
    assert ((change != 0).sum(1) == 5).all()
    chosen, others = weight.abs()[change != 0].reshape(40, 5), weight.abs()[change == 0].reshape(40, 25)
    if selection == "random":
        site = Site("l", "attn.q", 0, (40, 30))
        draws = [
            NeuroAda(NeuroAdaConfig(k=5, selection="random"), site, None, torch.Generator().manual_seed(s), weight)
            for s in (0, 1)
        ]
        assert not torch.equal(draws[0].index, draws[1].index)
        assert chosen.mean() < 1.5 * others.mean()
    elif selection == "magnitude":
        assert (chosen.min(1).values >= others.max(1).values).all()
    else:
        assert (chosen.max(1).values <= others.min(1).values).all()


def test_columns_come_from_the_base_on_a_real_host() -> None:
    """At most k changes in every row of the merged weight, at the k largest of the base's row, GPT-2's sliced weight included."""
    model = hosts.host("gpt2")
    adapter = hosts.adapters(model).attach("a", "neuroada", registry.configure("neuroada", {"k": 4}))
    disturb(adapter)
    before = {s.path: model.get_submodule(s.path).weight.detach().clone() for s in adapter.sites}
    model.workbench.merge()
    for site in adapter.sites:
        rows = slice(*(site.rows or (0, None)))
        old, new = before[site.path].t()[rows], model.get_submodule(site.path).weight.detach().t()[rows]
        changed = old != new
        assert (changed.sum(1) <= 4).all()
        assert changed.any(1).all()
        assert (old.abs() >= old.abs().topk(4).values[:, -1:])[changed].all()


def test_optimizer_state_and_peak_memory_stay_sparse() -> None:
    """Adam holds 2 k d_out numbers, and a step on a wide layer needs less than half of what a masked dense change needs."""
    wide, k, x = torch.randn(1024, 1024), 4, torch.randn(32, 1024)
    one = part(wide, k=k)
    mask = torch.zeros_like(wide).scatter(1, one.index, 1.0)
    masked = nn.Parameter(torch.zeros_like(wide))

    def step(parameter: nn.Parameter, forward: object) -> torch.optim.Adam:
        optimizer = torch.optim.Adam([parameter], foreach=False)
        forward().square().sum().backward()
        optimizer.step()
        return optimizer

    sizes: dict[str, int] = {}

    def sparse() -> object:
        optimizer = step(one.theta, lambda: x @ wide.T + one.apply_to(None, x, wide, {}))
        sizes["state"] = sum(t.numel() for t in optimizer.state[one.theta].values() if t.dim())
        return optimizer

    lean = peak_bytes(sparse)
    dense = peak_bytes(lambda: step(masked, lambda: nn.functional.linear(x, wide + mask * masked)))
    assert sizes["state"] == 2 * k * 1024
    assert lean < wide.nbytes < dense / 2


def test_published_counts() -> None:
    """LLaMA-7B, seven projections of 32 layers: k = 20 is 27,197,440, k = 1 is 1,359,872."""
    square = [("attn.q", 4096, 4096), ("attn.k", 4096, 4096), ("attn.v", 4096, 4096), ("attn.out", 4096, 4096)]
    shapes = [*square, ("ffn.gate", 11008, 4096), ("ffn.up", 11008, 4096), ("ffn.down", 4096, 11008)]
    sites = [Site(f"{i}.{r}", r, i, (out, into)) for i in range(32) for r, out, into in shapes]
    assert NeuroAda.n_params(NeuroAdaConfig(), sites) == 27_197_440
    assert NeuroAda.n_params(registry.configure("neuroada_1", {}), sites) == 1_359_872


def test_llama_7b_is_planned_without_allocating() -> None:
    """The default roles match exactly those projections of a LLaMA-7B on the meta device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from workbench import backbones

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig())  # transformers' defaults are LLaMA-7B's sizes
    family = backbones.of(model)
    sites = backbones.chosen(family.sites(model, ()), NeuroAdaConfig(), NeuroAda.roles, family.n_blocks(model), "neuroada")
    assert NeuroAda.n_params(NeuroAdaConfig(), sites) == 27_197_440


def test_refuses_more_connections_than_inputs() -> None:
    """A problem of the plan, in one sentence."""
    with pytest.raises(WorkbenchError, match="has 32, k is 40"):
        hosts.adapters(hosts.host("llama")).attach("a", "neuroada", registry.configure("neuroada", {"k": 40}))
