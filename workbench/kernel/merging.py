"""What stands in a weight's place when adapters are written into it, or when several change it."""

import torch
from torch import Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.kernel import attach as surgery
from workbench.kernel.contract import Context

Record = tuple[list[tuple[nn.Module, str]], nn.Parameter]
"""Where a merged parameter stands, and the original that must come back."""


@torch.no_grad()
def merge(host: nn.Module, module: nn.Module, live: list[surgery.Live], ctx: Context) -> list[Record]:
    """Put W + sum_i w_i delta_i (and the changed bias) where the module's weight stands, in the weight's own dtype.

    Returns:
        The originals, for `unmerge`.

    Raises:
        WorkbenchError: the weight is tied to another module.
    """
    weight = module._parameters["weight"]
    assert weight is not None, "only modules with a weight carry weight parts"
    where = surgery.holders(host, weight)
    if len(where) > 1:
        raise WorkbenchError("a tied weight cannot be merged: the change would reach the other module too; adapt other roles.")
    total = weight.float()
    bias = module._parameters.get("bias")
    shift = None if bias is None else bias.float()
    for part, scale, _ in live:
        site = part.site
        matrix = surgery.matrix(module, site)
        total = total + scale * surgery.stored_form(part.delta(matrix, ctx), module, site)
        if bias is not None and shift is not None:
            rows = slice(*(site.rows or (0, shift.numel())))
            moved = part.delta_bias(bias.float()[rows], matrix, ctx)
            if moved is not None:
                shift = shift.clone()
                shift[rows] += scale * moved
    records: list[Record] = []
    for name, old, new in (("weight", weight, total), ("bias", bias, shift)):
        if old is not None and new is not None:
            records.append(([(module, name)], old))
            surgery.place([(module, name)], nn.Parameter(new.to(old.dtype), requires_grad=False))
    return records


def standing(original: nn.Parameter, owners: list[tuple[nn.Parameter, float]]) -> nn.Parameter:
    """The parameter that stands for a base tensor: the original, one adapter's own, or base + sum_i w_i (own_i - base)."""
    if not owners:
        return original
    if len(owners) == 1 and owners[0][1] == 1:
        return owners[0][0]
    base: Tensor = original.detach().float()
    total = base + sum(w * (own.detach().float().to(base.device) - base) for own, w in owners)
    return nn.Parameter(total.to(original.dtype), requires_grad=False)
