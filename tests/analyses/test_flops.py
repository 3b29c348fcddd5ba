"""Counted operations against the formulas: two per weight and position, and what a frozen matrix saves."""

import pytest
import torch
from torch import nn

from tests.contract import hosts
from workbench.evaluate.flops import counted
from workbench.kernel import registry

N, M, ROWS = 24, 40, 7


def passes(trained, needs_input):
    """Counted operations of one linear (M, N) on ROWS inputs."""
    layer = nn.Linear(N, M)
    layer.weight.requires_grad_(trained)
    layer.bias.requires_grad_(trained)
    x = torch.randn(ROWS, N, requires_grad=needs_input)
    return counted(lambda: layer(x).sum())


def test_a_frozen_linear_costs_half_of_a_trained_one_backward():
    trained, frozen, first = passes(True, True), passes(False, True), passes(True, False)
    assert trained.forward == frozen.forward == 2 * N * M * ROWS
    assert trained.backward == 2 * trained.forward
    assert frozen.backward == frozen.forward == trained.backward / 2
    assert first.backward == first.forward, "nothing below asks for a gradient of the input"
    assert trained.step == 3 * trained.forward


def attached(family, method):
    """Operations of one training step on the family's tiny model with a method on it."""
    model = hosts.host(family)
    adapters = hosts.adapters(model)
    key, cls, _ = registry.find(method)
    adapters.attach("a", key, cls.tiny)
    for path in hosts.head(model):
        model.get_submodule(path).requires_grad_(True)
    return counted(lambda: hosts.loss(model, family))


D, FFN, BLOCKS, LABELS = 32, 64, 2, 3
POSITIONS = hosts.BATCH * hosts.TOKENS  # padding is computed too
MATRICES = POSITIONS * BLOCKS * 2 * (4 * D * D + 2 * D * FFN)
ATTENTION = POSITIONS * BLOCKS * 4 * hosts.TOKENS * D  # queries with keys, weights with values
POOLER, CLASSIFIER = hosts.BATCH * 2 * D * D, hosts.BATCH * 2 * D * LABELS
FORWARD = MATRICES + ATTENTION + POOLER + CLASSIFIER


def test_full_fine_tuning_is_three_forward_passes():
    full = attached("bert", "full")
    assert full.forward == FORWARD
    assert full.step == 3 * full.forward


def test_frozen_matrices_save_their_own_gradients():
    """Norms from the embedding up train: gradients flow through everything, no matrix but the classifier has its own."""
    frozen = attached("bert", "norm_tuning")
    assert frozen.forward == FORWARD
    assert frozen.step == 3 * FORWARD - MATRICES - POOLER


def test_below_what_trains_there_is_no_backward():
    head = attached("bert", "head_only")
    assert (head.forward, head.backward) == (FORWARD, CLASSIFIER)


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "vit"])
def test_methods_are_ordered_as_their_work_is(family):
    full, lora = (attached(family, m) for m in ("full", "lora"))
    assert lora.backward < full.backward
    assert lora.forward > full.forward
