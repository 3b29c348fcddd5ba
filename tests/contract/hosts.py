"""The tiny hosts: one 2-block, 32-wide model per architecture family, with a batch and a loss that fit it."""

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from workbench import backbones
from workbench.kernel.host import Adapters, adapters_of

FAMILIES = ("bert", "llama", "gpt2", "vit")
BATCH = 4
TOKENS = 7


@cache
def _prototype(family: str) -> nn.Module:
    """The family's tiny model with weights of a trained size: at their initial 0.02 the blocks would barely matter."""
    model = backbones.families()[family].tiny(backbones.families()[family].model_types[0])
    gen = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.mul_(6.0)
            else:  # biases start at 0 and norms at 1, values at which mistakes hide
                p.add_(0.1 * torch.randn(p.shape, generator=gen))
    return model


def host(family: str) -> nn.Module:
    """A fresh copy of the family's tiny model, in eval mode, every parameter trainable as transformers leaves it."""
    return copy.deepcopy(_prototype(family)).eval()


def head(model: nn.Module) -> tuple[str, ...]:
    """Paths of the task's own modules."""
    return tuple(n for n in ("classifier", "score") if isinstance(getattr(model, n, None), nn.Module))


def adapters(model: nn.Module) -> Adapters:
    """The model's adapters, its head set apart."""
    return adapters_of(model, head(model))


def inputs(family: str) -> dict[str, Tensor]:
    """One batch of 4: padded token ids with their mask, or images."""
    gen = torch.Generator().manual_seed(1)
    config = _prototype(family).config
    if family == "vit":
        return {"pixel_values": torch.randn(BATCH, config.num_channels, config.image_size, config.image_size, generator=gen)}
    ids = torch.randint(1, config.vocab_size, (BATCH, TOKENS), generator=gen)
    mask = torch.ones_like(ids)
    ids[1, 5:], mask[1, 5:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def facts(family: str) -> dict[str, Tensor]:
    """What a task would put into the context besides the mask."""
    if family == "vit":
        return {}
    return {"positions": torch.tensor([[0, 7], [0, 5], [1, 7], [0, 6]])}


def logits(model: nn.Module, family: str) -> Tensor:
    """Logits of the batch with everything that is attached, in fp32; the context is filled where adapters are there."""
    batch = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in inputs(family).items()}
    if not isinstance(getattr(model, "workbench", None), Adapters):
        return model(**batch).logits.float()
    with model.workbench.context(**facts(family)):
        return model(**batch).logits.float()


def loss(model: nn.Module, family: str) -> Tensor:
    """Cross-entropy of the batch against fixed random labels (one per token for a language model)."""
    out = logits(model, family)
    labels = torch.randint(0, out.shape[-1], out.shape[:-1], generator=torch.Generator().manual_seed(2))
    return nn.functional.cross_entropy(out.flatten(0, -2), labels.flatten())


def snapshot(model: nn.Module) -> dict[str, tuple[int, Tensor, bool]]:
    """Name -> (identity, copy of the value, requires_grad) of every tensor of the base."""
    both: list[tuple[str, Any]] = [*model.named_parameters(), *model.named_buffers()]
    return {n: (id(t), t.detach().clone(), t.requires_grad) for n, t in both if not n.startswith("workbench.")}


def differences(before: dict[str, tuple[int, Tensor, bool]], after: dict[str, tuple[int, Tensor, bool]]) -> list[str]:
    """What changed between two snapshots, in words; NaN counts as equal to itself."""
    found = [f"{n} is gone" for n in before.keys() - after.keys()] + [f"{n} is new" for n in after.keys() - before.keys()]
    for name in before.keys() & after.keys():
        (a, x, p), (b, y, q) = before[name], after[name]
        same = (
            x.dtype == y.dtype and x.shape == y.shape and torch.equal(x.view(torch.uint8), y.view(torch.uint8))
            if x.dim()
            else torch.equal(x, y)
        )
        found += [
            f"{name}: {word}"
            for word, bad in (("another object", a != b), ("another value", not same), ("requires_grad", p != q))
            if bad
        ]
    return sorted(found)
