"""Norm tuning against plain training of the norms and the counts by formula."""

import pytest
import torch

from tests.contract import hosts
from workbench import backbones
from workbench.core.errors import WorkbenchError
from workbench.methods.selection.norm_tuning import NormTuning, NormTuningConfig


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_equals_plain_training_of_the_norms(family: str, trained_plainly) -> None:
    """Exactly the tensors of normalisation layers train, and they go where plain torch takes them."""
    model = hosts.host(family)
    norms = {n for n, _ in model.named_parameters() if "norm" in n.lower()}
    assert len(norms) == {"bert": 2 * (2 * 2 + 1), "llama": 2 * 2 + 1}[family]
    adapter = hosts.adapters(model).attach("a", "norm_tuning", NormTuningConfig())
    chosen = adapter.originals()
    assert chosen.keys() == norms
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        hosts.loss(model, family).backward()
        optimizer.step()
    plain = trained_plainly(family, norms)
    assert not [n for n in norms if not torch.equal(chosen[n][1], plain[n])]


def test_count_of_bert_large() -> None:
    """2 d (2 L + 1) for d = 1024, L = 24."""
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        model = BertModel(BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096))
    sites = backbones.of(model).sites(model)
    assert sum(dict(s.tensors)[n][0] for s in sites for n in NormTuning.selects(NormTuningConfig(), s)) == 100_352


def test_another_role_is_refused() -> None:
    """It trains norms, so a placement elsewhere is an error, not a silent full training."""
    with pytest.raises(WorkbenchError, match=r"norm_tuning trains the role norms; got attn\.q"):
        hosts.adapters(hosts.host("bert")).attach("a", "norm_tuning", NormTuningConfig(roles=("attn.q",)))
