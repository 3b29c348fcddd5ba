"""BEFT: the weight stays, the bias moves."""

import pytest
import torch

from tests.contract import hosts
from tests.oracles import bridged
from workbench.core.errors import WorkbenchError
from workbench.kernel import registry


def naive(t, weight, bias, site):
    return weight, bias + t["beft_bias"].flatten()


def test_equation_in_float64() -> None:
    """The output is shifted by the trained vector; merged, the bias is."""
    model, adapter = bridged.check("beft", naive)
    site = adapter.sites[0]
    shift = bridged.own(adapter, site)["beft_bias"].flatten()
    before = bridged.weights(model, site)[1]
    model.workbench.merge()
    torch.testing.assert_close(model.get_submodule(site.path).bias.double(), before + shift, atol=1e-6, rtol=1e-6)


def test_needs_a_bias() -> None:
    """Llama's projections have none: refused in one sentence before anything is built."""
    model = hosts.host("llama")
    with pytest.raises(WorkbenchError, match="beft needs a bias"):
        hosts.adapters(model).attach("adapter", "beft", registry.methods()["beft"].tiny)
