"""PVeRA against its equation at inference, and its sampling while training."""

import torch

from tests.oracles import bridged


def naive(t, weight, bias, site):
    r = t["pvera_lambda_d"].shape[0] // 2
    A, B = t["shared.pvera_A"][:r, : site.d_in], t["shared.pvera_B"][: site.d_out]
    return weight + torch.diag(t["pvera_lambda_b"]) @ B @ torch.diag(t["pvera_lambda_d"][:r]) @ A, bias


def test_equation_in_float64() -> None:
    """At inference the mean is used: the first half of d and A."""
    bridged.check("pvera", naive, rank=64)


def test_samples_around_the_mean_while_training() -> None:
    """In training mode outputs vary, with the mean and the spread that the equation gives."""
    model, adapter = bridged.attached("pvera")
    site = adapter.sites[0]
    module, t = model.get_submodule(site.path), bridged.own(adapter, site)
    x = torch.randn(1, site.d_in, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mean = module(x).double()
        model.train()
        torch.manual_seed(0)
        drawn = module(x.expand(20_000, -1)).double()
    r = t["pvera_lambda_d"].shape[0] // 2
    log_variance = t["pvera_lambda_d"][r:] * (t["shared.pvera_A"][r:, : site.d_in] @ x[0].double())
    factor = torch.diag(t["pvera_lambda_b"]) @ t["shared.pvera_B"][: site.d_out]
    spread = (factor**2 @ log_variance.exp()).sqrt()
    torch.testing.assert_close(drawn.std(0), spread, atol=1e-4, rtol=0.03)
    assert ((drawn.mean(0) - mean[0]).abs() < 5 * spread / 20_000**0.5 + 1e-6).all()
