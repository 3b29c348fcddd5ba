"""C3A against its equation, without a Fourier transform."""

import torch

from tests.oracles import bridged


def naive(t, weight, bias, site):
    kernel = t["c3a_kernel"]  # (d_out/b, d_in/b, b)
    m, n, b = kernel.shape
    change = torch.zeros_like(weight)
    for i in range(m):
        for j in range(n):
            for row in range(b):
                for column in range(b):
                    change[i * b + row, j * b + column] = kernel[i, j, (column - row) % b]
    return weight + change / site.d_in, bias


def test_equation_in_float64() -> None:
    """Every block is circulant: entry (row, column) depends on column - row modulo b alone."""
    model, adapter = bridged.attached("c3a")
    with torch.no_grad():  # the change is divided by d_in: make it large enough to see
        for p in adapter.named_trainable().values():
            p.mul_(50)
    for site in adapter.sites:
        wanted, _ = naive(bridged.own(adapter, site), *bridged.weights(model, site), site)
        torch.testing.assert_close(bridged.effective(model, adapter, site), wanted, atol=1e-5, rtol=1e-5)
        x = torch.randn(4, site.d_in)
        y = model.get_submodule(site.path)(x).double()
        torch.testing.assert_close(y, x.double() @ wanted.T + bridged.weights(model, site)[1], atol=1e-4, rtol=1e-4)
