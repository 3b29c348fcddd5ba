"""Cut rank: an adapter that was trained with many ranks becomes an ordinary LoRA of any smaller rank b.

    dylora         A_b, B_b: the first b rows of A and columns of B      alpha stays, so that the scale is alpha / b
    lora           the same                                              alpha / b is the scale it had
    lora_nas       the same, at each site at most the rank it chose
    dynamic_lora   the b ranks with the largest |s_j| |B_j| |A_j|, s in B      alpha / b = 1

The LoRA computes what the elastic adapter computes at rank b, so one training of `dylora` serves every rank. Nothing is trained
again: a LoRA that was not trained to be cut loses what its later ranks had learnt. Ranks that dynamic LoRA removed cost nothing:
with rank empty the LoRA has as many as the site that kept the most, filled up with zeros elsewhere.
"""

from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.core.types import Paper
from workbench.kernel import state
from workbench.kernel.contract import Part
from workbench.kernel.host import adapters_of
from workbench.kernel.state import Stored
from workbench.methods.low_rank.dylora import DyLoRA
from workbench.methods.low_rank.dynamic_lora import DynamicLoRA
from workbench.methods.low_rank.lora import LoRA
from workbench.methods.low_rank.lora_nas import LoRANas
from workbench.operations.contract import operation


class Ranks(NamedTuple):
    """One site's ranks, the one to keep longest first.

    Attributes:
        A, B: (r, d_in) and (d_out, r).
        used: how many count.
        alpha: the change at rank b is alpha / b times B_b A_b; None where it is `scale` times that, whatever b is.
    """

    A: Tensor
    B: Tensor
    used: int
    alpha: float | None
    scale: float = 1.0


def ranks(part: Part) -> Ranks | None:
    """The ranks of a part that has some; None for any other."""
    if isinstance(part, DyLoRA):
        return Ranks(part.A, part.B, part.cfg.evaluate_at or part.cfg.rank, part.cfg.alpha)
    if isinstance(part, LoRA):
        return Ranks(part.A, part.B, part.cfg.rank, None, part.scale)
    if isinstance(part, LoRANas) and not part.reads_weight:
        (chosen,) = part.chosen()
        return Ranks(part.A, part.B * (torch.arange(part.B.shape[1]) < chosen), chosen, None, part.scale)
    if isinstance(part, DynamicLoRA):
        weights = part.weights()
        order = (weights.abs() * part.A.norm(dim=1) * part.B.norm(dim=0)).argsort(descending=True, stable=True)
        return Ranks(part.A[order], (part.B * weights)[:, order], int(weights.count_nonzero()), None)
    return None


@operation(least=1, most=1, paper=Paper("Valipour et al., 2022", "https://arxiv.org/abs/2210.07558", 14))
def cut_rank(
    adapters: list[Stored],
    host: nn.Module,
    *,
    rank: Annotated[
        int | None, Field(ge=1, le=1024, description="Rank b of the LoRA; empty keeps every rank that is in use.")
    ] = None,
) -> Stored:
    """See the module's docstring.

    Raises:
        WorkbenchError: a method whose ranks cannot be cut, or a rank above the adapter's.
    """
    source = adapters[0]
    adapter = state.restore(host, source, "operand")
    sites, cfg = adapter.sites, adapter.cfg
    with torch.no_grad():
        found = {key: ranks(part) for key, part in adapter.named_parts()}
    adapters_of(host).release()
    known = {key: one for key, one in found.items() if one is not None}
    if not known:
        known_methods = "lora, dylora, dynamic_lora or (on the base as it is) lora_nas"
        raise WorkbenchError(f"cut_rank takes adapters of {known_methods}; this one is of {source.meta['method']}.")
    first = next(iter(known.values()))
    b = rank or max(1, *(one.used for one in known.values()))
    if b > len(first.A):
        raise WorkbenchError(f"cut_rank.rank must be at most the adapter's own rank, {len(first.A)}; got {b}.")
    tensors = {f"{key}.A": one.A[:b].cpu().clone() for key, one in known.items()}
    tensors |= {f"{key}.B": one.B[:, :b].cpu().contiguous().clone() for key, one in known.items()}
    alpha = first.scale * b if first.alpha is None else first.alpha
    roles = list(dict.fromkeys(site.role for site in sites))
    config = {"rank": b, "alpha": alpha, "roles": roles, "depths": cfg.depths, "tower": cfg.tower}
    return Stored({**source.meta, "method": "lora", "config": config, "preset": None}, tensors, source.head)
