"""DEFT against its equation, in both forms of the projection."""

import pytest
import torch

from tests.oracles import bridged


def relu(t, weight, bias, site):
    P, R = t["deft_P"], t["deft_R"]
    return weight - P @ P.clamp(min=0).T @ weight + P @ R, bias


def qr(t, weight, bias, site):
    Q = torch.linalg.qr(t["deft_P"])[0]
    return weight - Q @ Q.T @ weight + Q @ t["deft_R"], bias


@pytest.mark.parametrize(("projection", "naive"), [("relu", relu), ("qr", qr)])
def test_equation_in_float64(projection: str, naive: bridged.Naive) -> None:
    """What P spans is taken out of W, and R is put in its place."""
    model, adapter = bridged.check("deft", naive, projection=projection)
    change = bridged.effective(model, adapter, adapter.sites[0]) - bridged.weights(model, adapter.sites[0])[0]
    assert torch.linalg.matrix_rank(change, rtol=1e-4) <= 4
