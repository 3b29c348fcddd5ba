"""What oracle tests share: real peft models as twins, and plain training of a copy without the kernel."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.contract import hosts
from workbench.kernel.adapter import Adapter


@pytest.fixture
def as_peft() -> Callable[[Adapter, nn.Module], nn.Module]:
    """`as_peft(adapter, base)` -> base as a real peft model that holds the adapter's tensors, named by its PeftTwin."""

    def build(adapter: Adapter, base: nn.Module) -> nn.Module:
        import peft
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        twin = adapter.method.peft
        assert twin is not None
        options = twin.config(adapter.cfg, adapter.sites)
        config = PEFT_TYPE_TO_CONFIG_MAPPING[twin.peft_type](target_modules=[s.path for s in adapter.sites], **options)
        model = peft.get_peft_model(base, config).eval()
        tensors = {}
        for key, value in adapter.tensors().items():
            path, _, name = key.rpartition(".")
            tensors[f"base_model.model.{path}.{twin.tensors[name]}"] = value
        result = peft.set_peft_model_state_dict(model, tensors)
        assert not result.unexpected_keys
        own = peft.get_peft_model_state_dict(model)
        assert own.keys() == tensors.keys()
        assert all(torch.equal(own[k], tensors[k]) for k in own)
        return model

    return build


@pytest.fixture
def trained_plainly() -> Callable[..., dict[str, torch.Tensor]]:
    """`trained_plainly(family, names)` -> the named tensors of a plain copy after three steps of SGD on them alone."""

    def train(family: str, names: set[str], steps: int = 3, lr: float = 0.1) -> dict[str, torch.Tensor]:
        model = hosts.host(family)
        chosen = {n: p.requires_grad_(n in names) for n, p in model.named_parameters()}
        chosen = {n: p for n, p in chosen.items() if n in names}
        optimizer = torch.optim.SGD(chosen.values(), lr=lr)
        for _ in range(steps):
            optimizer.zero_grad()
            hosts.loss(model, family).backward()
            optimizer.step()
        return {n: p.detach() for n, p in chosen.items()}

    return train
