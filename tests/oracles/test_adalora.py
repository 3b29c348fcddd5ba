"""AdaLoRA against its equation, its penalty, its budget, and an interrupted training."""

import torch

from tests.contract import hosts
from tests.oracles import bridged
from workbench.kernel import registry
from workbench.kernel.adapter import Adapter


def naive(t, weight, bias, site):
    A, B, E = t["lora_A"], t["lora_B"], t["lora_E"].flatten()
    return weight + 320.0 / (len(E) + 1e-5) * B @ torch.diag(E) @ A, bias


def test_equation_in_float64() -> None:
    """B diag(E) A times alpha over the first rank."""
    bridged.check("adalora", naive, alpha=320.0)


def test_penalty_is_the_mean_distance_from_orthogonal() -> None:
    """Over all A and B of all sites."""
    _, adapter = bridged.attached("adalora", orthogonality=0.3)
    terms = []
    for site in adapter.sites:
        t = bridged.own(adapter, site)
        for gram in (t["lora_A"] @ t["lora_A"].T, t["lora_B"].T @ t["lora_B"]):
            terms.append(((gram - torch.eye(6)) ** 2).sum().sqrt())
    penalty = adapter.penalty()
    assert penalty is not None
    torch.testing.assert_close(penalty.detach().double(), 0.3 * torch.stack(terms).mean(), atol=1e-6, rtol=1e-5)


def training(
    model: torch.nn.Module, adapter: Adapter, first: int, last: int, steps: int, optimizer: torch.optim.Optimizer
) -> list[int]:
    """Steps `first` to `last` of a training of `steps`; nonzero singular values after each."""
    alive = []
    for step in range(first, last + 1):
        optimizer.zero_grad()
        (hosts.loss(model, "bert") + adapter.penalty()).backward()
        optimizer.step()
        adapter.on_step(step, steps)
        alive.append(sum(int((t != 0).sum()) for k, t in adapter.tensors().items() if k.endswith("lora_E")))
    return alive


def start(rank: int = 6, target: int = 2) -> tuple[torch.nn.Module, Adapter, torch.optim.Optimizer]:
    model = hosts.host("bert")
    cls = registry.methods()["adalora"]
    adapter = hosts.adapters(model).attach("adapter", "adalora", cls.Config(rank=rank, target_rank=target))
    return model, adapter, torch.optim.SGD(adapter.named_trainable().values(), lr=0.5, momentum=0.9)


def test_budget_falls_to_the_target() -> None:
    """All triplets live until warm-up ends, then ever fewer; the target is met when the final share begins, and kept."""
    model, adapter, optimizer = start()
    alive = training(model, adapter, 1, 20, 20, optimizer)
    assert alive[:2] == [24, 24]  # a tenth of 20 steps
    assert alive[2:14] == sorted(alive[2:14], reverse=True)
    assert alive[13:] == [8] * 7  # two per site on average, from step 14 on
    ranks = {int((t != 0).sum()) for k, t in adapter.tensors().items() if k.endswith("lora_E")}
    assert len(ranks) > 1, "the budget moves between the sites"


def test_interrupted_training_goes_on_bitwise() -> None:
    """With `progress` put back, the second half is the same as without a break, whether before or after the last cut."""
    for cut in (8, 17):
        model, adapter, optimizer = start()
        training(model, adapter, 1, 20, 20, optimizer)
        whole = adapter.tensors()

        model, adapter, optimizer = start()
        training(model, adapter, 1, cut, 20, optimizer)
        kept = {k: v.clone() for k, v in adapter.progress().items()}
        tensors, moments = {k: v.clone() for k, v in adapter.tensors().items()}, optimizer.state_dict()

        model, adapter, optimizer = start()
        adapter.load(tensors)
        adapter.resume(cut, kept)
        optimizer.load_state_dict(moments)
        training(model, adapter, cut + 1, 20, 20, optimizer)
        assert not [k for k, t in adapter.tensors().items() if not torch.equal(t, whole[k])]
