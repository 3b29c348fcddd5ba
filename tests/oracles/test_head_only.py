"""Head only against a linear classifier on the frozen features."""

import torch
from torch import nn

from tests.contract import hosts
from workbench.methods.selection.head_only import HeadOnlyConfig


def test_equals_a_linear_classifier_on_cached_features() -> None:
    """Training the head through the host gives bitwise the classifier that plain torch trains on stored features."""
    model = hosts.host("bert")
    adapter = hosts.adapters(model).attach("a", "head_only", HeadOnlyConfig())
    assert not adapter.named_trainable()
    assert not adapter.tensors()
    batch = hosts.inputs("bert")
    with torch.no_grad():
        features = model.bert(**batch).pooler_output
    alone = nn.Linear(features.shape[1], 3)
    alone.load_state_dict(model.classifier.state_dict())
    labels = torch.randint(0, 3, (hosts.BATCH,), generator=torch.Generator().manual_seed(2))
    model.classifier.requires_grad_(True)
    for head, logits in ((model.classifier, lambda: model(**batch).logits), (alone, lambda: alone(features))):
        optimizer = torch.optim.SGD(head.parameters(), lr=0.5)
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits(), labels).backward()
            optimizer.step()
    assert torch.equal(alone.weight, model.classifier.weight)
    assert torch.equal(alone.bias, model.classifier.bias)
    assert not [n for n, p in model.named_parameters() if p.grad is not None and not n.startswith("classifier")]


def test_language_model_is_the_base_itself() -> None:
    """Without a head nothing trains: the zero-shot baseline."""
    model = hosts.host("llama")
    with torch.no_grad():
        base = hosts.logits(model, "llama")
        hosts.adapters(model).attach("a", "head_only", HeadOnlyConfig())
        assert torch.equal(hosts.logits(model, "llama"), base)
    assert not [p for p in model.parameters() if p.requires_grad]
