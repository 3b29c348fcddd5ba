"""BitFit against plain training of the biases, the published count, and bases without biases."""

import pytest
import torch

from tests.contract import hosts
from workbench import backbones
from workbench.core.errors import WorkbenchError
from workbench.kernel import registry
from workbench.methods.selection.bitfit import BitFit, BitFitConfig


def test_equals_plain_training_of_every_bias(trained_plainly) -> None:
    """Exactly the tensors called bias outside the head train, and they go where plain torch takes them."""
    model = hosts.host("bert")
    biases = {n for n, _ in model.named_parameters() if n.endswith("bias") and not n.startswith("classifier")}
    adapter = hosts.adapters(model).attach("a", "bitfit", BitFitConfig())
    chosen = adapter.originals()
    assert chosen.keys() == biases
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        hosts.loss(model, "bert").backward()
        optimizer.step()
    plain = trained_plainly("bert", biases)
    assert not [n for n in biases if not torch.equal(chosen[n][1], plain[n])]


def test_published_size() -> None:
    """BERT-large: 0.27 million biases (0.08 % of the model), the pooler's included."""
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        model = BertModel(BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096))
    sites = backbones.of(model).sites(model)
    count = sum(dict(s.tensors)[n][0] for s in sites for n in BitFit.selects(BitFitConfig(), s))
    assert count == 24 * 11 * 1024 + 2 * 1024 == 272_384


def test_subset_is_query_and_first_feed_forward() -> None:
    """The preset trains two biases a block."""
    model = hosts.host("bert")
    adapter = hosts.adapters(model).attach("a", "bitfit", registry.configure("bitfit_subset", {}))
    ends = ("attention.self.query.bias", "intermediate.dense.bias")
    assert sorted(adapter.originals()) == sorted(f"bert.encoder.layer.{i}.{e}" for i in (0, 1) for e in ends)


def test_a_base_without_biases_is_refused_in_one_sentence() -> None:
    """LLaMA has no bias; the error says so and the host is as it was."""
    model = hosts.host("llama")
    with pytest.raises(WorkbenchError, match="this base model has no bias") as caught:
        hosts.adapters(model).attach("a", "bitfit", BitFitConfig())
    assert str(caught.value).count(". ") == 0
    assert not model.workbench.members
