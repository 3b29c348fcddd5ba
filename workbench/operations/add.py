"""Add: the changes of several fine-tuned models are summed on the base they share, e.g. a task's and a language's.

    theta = theta_0 + sum_i w_i (theta_i - theta_0)      for every base tensor that one of the adapters changed

For adapters that train base tensors: sparse fine-tuning (`full` with the recipe `lt_sft`) is made for this, because few
entries of two sparse changes meet. Where every change is zero the result is bitwise the base, and the order does not
matter. The head is that of one adapter, the first unless `head` names another.

Deviates from the paper: it composes a language's change, trained as a language model, with a task's; here all adapters
must belong to one task, because a language model and a classifier are different hosts.
"""

from typing import Annotated

import torch
from pydantic import Field, FiniteFloat
from torch import Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.core.types import Paper
from workbench.kernel import state
from workbench.kernel.host import adapters_of
from workbench.kernel.state import Stored
from workbench.operations.contract import operation


@operation(least=1, paper=Paper("Ansell et al., 2022", "https://arxiv.org/abs/2110.07560", 43))
def add(
    adapters: list[Stored],
    host: nn.Module,
    *,
    weights: Annotated[tuple[FiniteFloat, ...] | None, Field(description="Factor w of each change; empty means 1.")] = None,
    head: Annotated[int, Field(ge=1, description="Whose head the result gets: 1 = the first adapter.")] = 1,
) -> Stored:
    """See the module's docstring.

    Raises:
        WorkbenchError: an adapter has tensors of its own, methods or tasks differ, or a wrong number of weights.
    """
    factors = weights or (1.0,) * len(adapters)
    if len(factors) != len(adapters) or head > len(adapters):
        raise WorkbenchError(
            f"add needs one weight per adapter and a head among them; got {len(factors)} and head {head} for {len(adapters)}."
        )
    first, chosen = adapters[0], adapters[head - 1]
    for one in adapters:
        if strange := next((name for name in one.tensors if not name.startswith("base.")), None):
            raise WorkbenchError(
                f"add sums changes of base tensors (as full does); {one.meta['method']} has a tensor of its own, {strange!r}."
            )
        for what in ("method", "config", "task"):
            if one.meta.get(what) != first.meta.get(what):
                raise WorkbenchError(
                    f"add needs adapters with the same {what}; got {first.meta.get(what)!r} and {one.meta.get(what)!r}."
                )
    return Stored(chosen.meta, _sum(adapters, factors, host), chosen.head)


@torch.no_grad()
def _sum(adapters: list[Stored], factors: tuple[float, ...], host: nn.Module) -> dict[str, Tensor]:
    """theta by stored name; the changes are summed in float64, so that their order cannot show."""
    total: dict[str, Tensor] = {}
    for stored, factor in zip(adapters, factors, strict=True):
        adapter = state.restore(host, stored, "operand")
        for name, (base, own, _) in adapter.originals().items():
            change = factor * (own.double() - base.double())
            total[name] = total[name] + change if name in total else change
        bases = {name: base for name, (base, _, _) in adapter.originals().items()}
        adapters_of(host).release()
    return {f"base.{name}": (bases[name].double() + change).to(bases[name].dtype).cpu() for name, change in total.items()}
