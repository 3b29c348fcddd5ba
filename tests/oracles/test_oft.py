"""OFT against its equation, exact and as a series, and the rotation's invariants."""

import pytest
import torch

from tests.oracles import bridged


def rotation(t, site, exact):
    vectors, b = t["oft_R.weight"], 8
    blocks = []
    for vector in vectors:
        Q = torch.zeros(b, b, dtype=torch.float64)
        at = 0
        for i in range(b):
            for j in range(i + 1, b):
                Q[i, j], Q[j, i] = vector[at], -vector[at]
                at += 1
        eye = torch.eye(b, dtype=torch.float64)
        blocks.append((eye - Q) @ torch.linalg.inv(eye + Q) if exact else eye + 2 * Q + 2 * Q @ Q + 2 * Q @ Q @ Q + Q @ Q @ Q @ Q)
    return torch.block_diag(*blocks)


@pytest.mark.parametrize("exact", [False, True])
def test_equation_in_float64(exact: bool) -> None:
    """The input is multiplied by a block-diagonal matrix before the base's weight sees it."""
    bridged.check("oft", lambda t, w, b, s: (w @ rotation(t, s, exact).T, b), exact=exact)


def test_exact_form_is_orthogonal() -> None:
    """It keeps all scalar products between rows of W; the series only nearly does."""
    errors = {}
    for exact in (True, False):
        model, adapter = bridged.attached("oft", exact=exact)
        weight, _ = bridged.weights(model, adapter.sites[0])
        moved = bridged.effective(model, adapter, adapter.sites[0])
        errors[exact] = ((moved @ moved.T - weight @ weight.T).abs().max() / (weight @ weight.T).abs().max()).item()
    assert errors[True] < 1e-6 < errors[False] < 0.05
