"""Hydra against its equation, its two limits (LoRA, SeqLoRA), an independent merge per kind of layer, and the published counts.

Of the catalogue's acceptance checks, the start, merging and storing are contract tests as well (identity_at_init,
merge_equals_unmerged); the miniature comparison at equal budget is the paper file `013-hydra.yaml`.
"""

import pytest
import torch

from tests.contract import hosts
from tests.contract.checks import disturb
from workbench.core.errors import WorkbenchError
from workbench.core.types import Site
from workbench.kernel import registry
from workbench.methods.low_rank.hydra import Hydra, HydraConfig
from workbench.methods.low_rank.lora import LoRA, LoRAConfig

SITE = Site("layer", "ffn.down", 0, (5, 7), bias=True)
WEIGHT = torch.randn(5, 7, generator=torch.Generator().manual_seed(3))
BIAS = torch.randn(5, generator=torch.Generator().manual_seed(4))
X = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(5))


def part(**options: object) -> Hydra:
    """A part away from its start."""
    one = Hydra(HydraConfig(**options), SITE, None, torch.Generator().manual_seed(0), WEIGHT)
    gen = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in one.parameters():
            p.add_(0.5 * torch.randn(p.shape, generator=gen))
    return one


def added(one: Hydra, x: torch.Tensor) -> torch.Tensor:
    """What the part adds to the layer's output, as the kernel puts it together."""
    return one.apply_to(x @ WEIGHT.T, x, WEIGHT, {}) + one.delta_bias(BIAS, None, {})


@pytest.mark.parametrize("bias", [False, True])
def test_equation_in_float64(bias: bool) -> None:
    """y0 + s (B_p (A_p x + a_p) + b_p + B_s (A_s y0 + a_s) + b_s), entry by entry."""
    one = part(parallel_rank=2, sequential_rank=3, scale=0.7, bias=bias)
    W, b, x = WEIGHT.double(), BIAS.double(), X.reshape(-1, 7).double()

    def branch(tensors: torch.nn.Module, z: torch.Tensor) -> list:
        t = {n: p.detach().double() for n, p in tensors.named_parameters()}
        A, B = t["A"], t["B"]
        low = [sum(A[k, j] * z[j] for j in range(len(z))) + (t["a"][k] if bias else 0) for k in range(len(A))]
        return [sum(B[i, k] * low[k] for k in range(len(low))) + (t["b"][i] if bias else 0) for i in range(5)]

    for row, got in zip(x, added(one, X).reshape(-1, 5), strict=True):
        y0 = W @ row + b
        first, second = branch(one.parallel, row), branch(one.sequential, y0)
        wanted = torch.tensor([0.7 * (p + q) for p, q in zip(first, second, strict=True)], dtype=torch.float64)
        torch.testing.assert_close(got.double(), wanted, atol=1e-5, rtol=1e-5)


def test_delta_is_the_same_change() -> None:
    """x delta^T and delta_bias give what the cheaper order gives."""
    one = part(parallel_rank=2, sequential_rank=3, bias=True)
    both = X @ one.delta(WEIGHT, {}).T + one.delta_bias(BIAS, None, {})
    torch.testing.assert_close(both, added(one, X), atol=1e-5, rtol=1e-5)


def test_without_the_sequential_branch_it_is_lora() -> None:
    """Outputs and gradients of LoRA with alpha = r, bit for bit, from the same seed."""
    gen = torch.Generator().manual_seed(0)
    ours = Hydra(HydraConfig(parallel_rank=3, sequential_rank=0), SITE, None, gen, WEIGHT)
    theirs = LoRA(LoRAConfig(rank=3, alpha=3.0), SITE, None, torch.Generator().manual_seed(0), WEIGHT)
    assert torch.equal(ours.parallel.A, theirs.A)
    with torch.no_grad():
        theirs.B.normal_(generator=torch.Generator().manual_seed(1))
        ours.parallel.B.copy_(theirs.B)
    outs = [one.apply_to(None, X, WEIGHT, {}) for one in (ours, theirs)]
    assert torch.equal(*outs)
    for out in outs:
        out.square().sum().backward()
    assert torch.equal(ours.parallel.A.grad, theirs.A.grad)
    assert torch.equal(ours.parallel.B.grad, theirs.B.grad)
    assert not ours.reads_output


def test_without_the_parallel_branch_only_the_output_counts() -> None:
    """SeqLoRA adds B_s A_s y0, and inputs that the base cannot tell apart stay so."""
    one = part(parallel_rank=0, sequential_rank=3)
    y0 = X @ WEIGHT.T + BIAS
    torch.testing.assert_close(added(one, X), y0 @ (one.sequential.B @ one.sequential.A).T, atol=1e-5, rtol=1e-5)
    blind = torch.linalg.svd(WEIGHT)[2][5:]  # directions of x that W maps to 0
    assert torch.allclose(blind @ one.delta(WEIGHT, {}).T, torch.zeros(2, 5), atol=1e-5)
    assert not torch.allclose(blind @ part(parallel_rank=2).delta(WEIGHT, {}).T, torch.zeros(2, 5), atol=1e-2)


@pytest.mark.parametrize("role", ["attn.out", "ffn.down"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_merged_weight_and_bias_per_kind_of_layer(family: str, role: str) -> None:
    """Merged logits equal the unmerged ones at each kind of layer alone, and need the merged bias for it."""
    model = hosts.host(family)
    cfg = registry.configure("hydra", {"parallel_rank": 2, "sequential_rank": 3, "bias": True, "roles": [role]})
    adapter = hosts.adapters(model).attach("a", "hydra", cfg)
    disturb(adapter)
    with torch.no_grad():
        apart = hosts.logits(model, family)
        before = {n: p for n, p in model.named_parameters() if n.endswith("bias")}
        model.workbench.merge()
        moved = [n for n, p in model.named_parameters() if n in before and p is not before[n]]
        assert len(moved) == len(adapter.sites) > 0
        torch.testing.assert_close(hosts.logits(model, family), apart, atol=1e-5, rtol=1e-5)
        for n in moved:  # with the base's own bias the merged model is another one
            model.get_submodule(n.removesuffix(".bias")).bias.copy_(before[n])
        assert not torch.allclose(hosts.logits(model, family), apart, atol=1e-4)


def test_dropout_keeps_the_expected_value() -> None:
    """While training the low values are dropped and rescaled; the biases' constant is left alone."""
    torch.manual_seed(0)
    one = part(parallel_rank=64, sequential_rank=64, dropout=0.5, bias=True).train()
    mean = torch.stack([added(one, X[:1, :1]).detach() for _ in range(4000)]).mean(0)
    one.eval()
    wanted = added(one, X[:1, :1]).detach()
    assert (mean - wanted).abs().max() < 0.1 * wanted.abs().max()
    assert torch.equal(one.delta_bias(BIAS, None, {}), one.train().delta_bias(BIAS, None, {}))


def test_published_counts() -> None:
    """RoBERTa-base, feed-forward output, ranks 4 and 8: 331,776; ViT-B/16, rank 2 and 2 with biases: 239,712."""
    down = [Site(f"{i}.down", "ffn.down", i, (768, 3072), bias=True) for i in range(12)]
    out = [Site(f"{i}.out", "attn.out", i, (768, 768), bias=True) for i in range(12)]
    assert Hydra.n_params(HydraConfig(), down) == 331_776
    assert Hydra.n_params(registry.configure("hydra_vision", {}), [*out, *down]) == 239_712


def test_refuses_no_branch_and_biases_without_a_place() -> None:
    """Both are problems of the plan, in one sentence."""
    for values, family, said in (
        ({"parallel_rank": 0, "sequential_rank": 0}, "bert", "both 0"),
        ({"bias": True}, "llama", "bias: true needs"),
    ):
        with pytest.raises(WorkbenchError, match=said):
            hosts.adapters(hosts.host(family)).attach("a", "hydra", registry.configure("hydra", values))
