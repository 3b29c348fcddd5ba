"""HRA against its equation, and the invariants of a chain of reflections."""

import torch

from tests.oracles import bridged


def naive(t, weight, bias, site):
    chain = torch.eye(site.d_in, dtype=torch.float64)
    for u in t["hra_u"].T:
        chain = chain @ (torch.eye(site.d_in, dtype=torch.float64) - 2 * torch.outer(u, u) / (u @ u))
    return weight @ chain, bias


def test_equation_in_float64() -> None:
    """A product of Householder reflections on the input side."""
    bridged.check("hra", naive)


def test_keeps_scalar_products_and_changes_at_most_r_directions() -> None:
    """The rows of W keep their scalar products; the change has rank r at most."""
    model, adapter = bridged.attached("hra")
    weight, _ = bridged.weights(model, adapter.sites[0])
    moved = bridged.effective(model, adapter, adapter.sites[0])
    torch.testing.assert_close(moved @ moved.T, weight @ weight.T, atol=1e-5, rtol=1e-5)
    assert torch.linalg.matrix_rank(moved - weight, rtol=1e-5) <= 4


def test_pairs_cancel_at_the_start() -> None:
    """Equal neighbours: the chain is the identity although no u is zero."""
    from tests.contract import hosts
    from workbench.kernel import registry

    model = hosts.host("bert")
    adapter = hosts.adapters(model).attach("adapter", "hra", registry.methods()["hra"].tiny)
    u = bridged.own(adapter, adapter.sites[0])["hra_u"]
    assert torch.equal(u[:, 0], u[:, 1])
    assert u.norm(dim=0).min() > 0
