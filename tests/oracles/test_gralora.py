"""GraLoRA against its equation, block by block, and the rank it can reach."""

import torch

from tests.oracles import bridged


def naive(t, weight, bias, site):
    A, B = t["gralora_A"], t["gralora_B"]  # (k, d_in/k, r), (k, r, d_out/k)
    k, width, r = A.shape
    height, per = B.shape[2], r // k
    change = torch.zeros_like(weight)
    for i in range(k):  # row of blocks: outputs
        for j in range(k):  # column of blocks: inputs
            a = A[j, :, i * per : (i + 1) * per]  # (d_in/k, r/k)
            b = B[i, j * per : (j + 1) * per, :]  # (r/k, d_out/k)
            change[i * height : (i + 1) * height, j * width : (j + 1) * width] = (a @ b).T
    return weight + 16.0 / r * change, bias


def test_equation_in_float64() -> None:
    """Every block of the grid has a low-rank change of its own."""
    bridged.check("gralora", naive)


def test_rank_is_r_times_k() -> None:
    """Two by two blocks of rank two: the whole change has rank 8, where LoRA of the same size has 4."""
    model, adapter = bridged.attached("gralora")
    site = adapter.sites[0]
    change = bridged.effective(model, adapter, site) - bridged.weights(model, site)[0]
    assert torch.linalg.matrix_rank(change, rtol=1e-5) == 8
    assert adapter.new_params() == sum(4 * (s.d_in + s.d_out) for s in adapter.sites)
