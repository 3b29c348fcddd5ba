"""Average: the weighted mean of adapters of one method and one configuration, tensor by tensor.

    T = sum_i w_i T_i / sum_i w_i      for every stored tensor T of the adapter and of the head

Exact for methods whose change is linear in the stored tensors (full, bitfit, IA3 vectors, bottleneck layers). For LoRA it
averages A and B apart, which is not the average of the changes B A; the two agree when A is shared.
"""

from typing import Annotated

from pydantic import Field, FiniteFloat
from torch import Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.kernel import state
from workbench.kernel.host import adapters_of
from workbench.kernel.state import Stored
from workbench.operations.contract import operation


@operation(least=1)
def average(
    adapters: list[Stored],
    host: nn.Module,
    *,
    weights: Annotated[tuple[FiniteFloat, ...] | None, Field(description="One weight per adapter; empty means equal.")] = None,
) -> Stored:
    """See the module's docstring.

    Raises:
        WorkbenchError: different methods, configurations or heads, a wrong number of weights, or weights that add up to 0.
    """
    scale = weights or (1.0,) * len(adapters)
    if len(scale) != len(adapters) or sum(scale) == 0:
        raise WorkbenchError(
            f"average needs one weight per adapter that do not add up to 0; got {list(scale)} for {len(adapters)}."
        )
    first = adapters[0]
    for other in adapters[1:]:
        for what in ("method", "config", "labels"):
            if other.meta.get(what) != first.meta.get(what):
                raise WorkbenchError(
                    f"average needs adapters with the same {what}; got {first.meta.get(what)!r} and {other.meta.get(what)!r}."
                )
    if len(adapters) == 1:
        return first
    dense = [_dense(host, a) for a in adapters]
    return Stored(first.meta, _mean([d.tensors for d in dense], scale), _mean([d.head for d in dense], scale))


def _dense(host: nn.Module, stored: Stored) -> Stored:
    """The same adapter without sparse storage: positions and values are filled in from the base."""
    adapter = state.restore(host, stored, "operand")
    tensors = {k: v.detach().cpu().clone() for k, v in adapter.tensors().items()}
    adapters_of(host).release()
    return Stored(stored.meta, tensors, stored.head)


def _mean(tensors: list[dict[str, Tensor]], weights: tuple[float, ...]) -> dict[str, Tensor]:
    first = tensors[0]
    if any(t.keys() != first.keys() for t in tensors):
        raise WorkbenchError("average needs adapters with the same tensors; these differ.")
    total = sum(weights)
    mean: dict[str, Tensor] = {}
    for key, value in first.items():
        if not value.is_floating_point():
            if any(not value.equal(t[key]) for t in tensors):
                raise WorkbenchError(f"average cannot mix the positions stored in {key!r}; they differ between the adapters.")
            mean[key] = value
            continue
        parts = [w / total * t[key].double() for w, t in zip(weights, tensors, strict=True)]
        mean[key] = sum(parts[1:], parts[0]).to(value.dtype)
    return mean
