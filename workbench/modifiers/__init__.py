"""Modifiers: things done to the tensors of any adapter after it is built; found by walking this folder."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

from workbench.core.errors import WorkbenchError, from_pydantic, unknown
from workbench.core.types import Config

if TYPE_CHECKING:
    import torch

    from workbench.kernel.adapter import Adapter
    from workbench.kernel.contract import Modifier


@cache
def modifiers() -> dict[str, "type[Modifier]"]:
    """File key -> modifier class."""
    from workbench.kernel import registry
    from workbench.kernel.contract import Modifier

    return {key: registry.final_class(m, Modifier) for key, m in sorted(registry.modules(__name__).items())}


def find(name: str) -> "type[Modifier]":
    """The modifier class of that name.

    Raises:
        WorkbenchError: an unknown name, with the closest ones.
    """
    if name not in modifiers():
        raise unknown("modifier", name, modifiers())
    return modifiers()[name]


def configure(name: str, values: Mapping[str, Any]) -> Config:
    """The modifier's whole Config from a person's values.

    Raises:
        WorkbenchError: one sentence about the first bad value.
    """
    from pydantic import ValidationError

    form = find(name).Config
    try:
        return form.model_validate(dict(values))
    except ValidationError as error:
        raise from_pydantic(error, name, form.model_fields) from None


def resolve(entry: Mapping[str, Any]) -> "tuple[type[Modifier], Config]":
    """(class, Config) of one entry as a spec holds it: `{modifier: sparse, keep: 0.2}`."""
    if not isinstance(entry.get("modifier"), str):
        raise WorkbenchError(f"every entry of modifiers needs `modifier: <name>`; got {dict(entry)!r}.")
    name = entry["modifier"]
    return find(name), configure(name, {k: v for k, v in entry.items() if k != "modifier"})


def apply_all(
    entries: Iterable[Mapping[str, Any]],
    adapter: "Adapter",
    losses: "Iterable[Callable[[], torch.Tensor]]",
    gen: "torch.Generator",
) -> None:
    """Apply the modifiers of a method entry in order.

    Args:
        entries: as in a spec.
        adapter: freshly built, before training; changed in place.
        losses: calls that return the training loss of one batch, with gradients; used only by modifiers that want them.
        gen: generator for everything that is drawn.

    Raises:
        WorkbenchError: a modifier does not fit this adapter.
    """
    batches = list(losses)
    for cls, cfg in map(resolve, entries):
        cls.apply(cfg, adapter, batches, gen)


def count_all(entries: Iterable[Mapping[str, Any]], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """New scalars that still differ after training, from the shapes of the adapter's dense tensors by stored name."""
    dense = sum(prod(s) for n, s in shapes.items() if not n.startswith(("base.", "head.")))
    return min((cls.count(cfg, shapes) for cls, cfg in map(resolve, entries)), default=dense)
