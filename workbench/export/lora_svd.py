"""Any mergeable adapter as a LoRA: the change of every linear weight is cut to a low rank, and the error is measured.

    dW = U S V^T  ~  B A      B = U_r sqrt(S_r): (d_out, r),  A = sqrt(S_r) V_r^T: (r, d_in),  alpha = r

Changes of biases beside a linear weight are kept exactly; what else changed (norms, embeddings, convolutions, tied weights)
has no place in a LoRA and is named under `dropped`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.evaluate.saved import Revived
from workbench.export import merged
from workbench.export import peft as folder
from workbench.kernel.attach import holders, place

RELATIVE = 1e-3
"""Without a rank and without a largest error: the relative Frobenius error that every weight must reach."""


@dataclass
class Change:
    """What an adapter does to one linear module: U, S, V^T of dW (d_out, d_in), and the change of the bias."""

    path: str
    u: Tensor
    s: Tensor
    vt: Tensor
    transposed: bool
    bias: Tensor | None

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """A (rank, d_in) and B (d_out, rank), filled up with zeros where the weight has fewer directions."""
        r = min(rank, len(self.s))
        root = self.s[:r].sqrt()
        a, b = root[:, None] * self.vt[:r], self.u[:, :r] * root
        return nn.functional.pad(a, (0, 0, 0, rank - r)), nn.functional.pad(b, (0, rank - r))

    def error(self, rank: int) -> float:
        """Relative Frobenius error of the best change of that rank."""
        energy = self.s.double().square()
        return float((energy[rank:].sum() / energy.sum()).sqrt()) if energy.sum() > 0 else 0.0


def refusal(revived: Revived) -> str:
    """Why there is no LoRA of this adapter; empty if there is one."""
    reason = merged.refusal(revived)
    if reason or revived.adapter.method.kind != "select":
        return reason
    linear = {f"{s.path}.weight" for s in revived.host.workbench.sites if s.kind in ("linear", "conv1d")}  # type: ignore[union-attr]
    return "" if linear & revived.adapter.originals().keys() else f"{revived.adapter.key} changes no linear weight"


def write(
    revived: Revived, work: Path, gap: Callable[[], float], rank: int | None = None, max_error: float | None = None
) -> dict[str, Any]:
    """Write the LoRA as a peft folder.

    Args:
        revived: the model; the adapter is on it.
        work: where to.
        gap: the largest difference of the host's logits to the adapter's own, as the host is now.
        rank: r; None = the smallest that keeps `gap` within max_error or, without one, every weight within RELATIVE.
        max_error: see rank.

    Returns:
        Facts for the manifest: rank, relative Frobenius error per weight, and what was dropped.
    """
    changes, dropped = _changes(revived)
    full = max(len(c.s) for c in changes)
    if rank is None:
        rank = _smallest(revived, changes, full, gap, max_error) if max_error is not None else max(_needed(c) for c in changes)
    elif not 1 <= rank <= full:
        raise WorkbenchError(f"the rank must be from 1 to {full}, the smaller side of the widest weight; got {rank}.")
    with_bias = any(c.bias is not None for c in changes)
    tensors: dict[str, Tensor] = {}
    for c in changes:
        at = f"{folder.PREFIX}{c.path}"
        tensors[f"{at}.lora_A.weight"], tensors[f"{at}.lora_B.weight"] = (t.contiguous() for t in c.factors(rank))
        if with_bias:
            tensors[f"{at}.lora_B.bias"] = torch.zeros(len(c.u)) if c.bias is None else c.bias.contiguous()
    from peft import LoraConfig

    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=sorted(c.path for c in changes), lora_bias=with_bias,
        fan_in_fan_out=all(c.transposed for c in changes),
    ).to_dict()  # fmt: skip
    folder.write_folder(revived, work, config, tensors)
    return {"peft_type": "LORA", "rank": rank, "relative_errors": {c.path: c.error(rank) for c in changes}, "dropped": dropped}


def _needed(change: Change) -> int:
    return next(r for r in range(1, len(change.s) + 1) if change.error(r) <= RELATIVE or r == len(change.s))


def _changes(revived: Revived) -> tuple[list[Change], list[str]]:
    """The change of every linear module, and the names of changed tensors that no LoRA can hold."""
    before, after = merged.both(revived)
    host, moved = revived.host, {n for n in before if not torch.equal(before[n], after[n])}
    found, covered = [], set()
    for site in {s.path: s for s in host.workbench.sites if s.kind in ("linear", "conv1d") and s.role != "head"}.values():  # type: ignore[union-attr]
        weight, bias = f"{site.path}.weight", f"{site.path}.bias"
        module = host.get_submodule(site.path)
        if (weight not in moved and bias not in moved) or len(holders(host, module.weight)) > 1:  # type: ignore[arg-type]
            continue
        change = after[weight] - before[weight]
        u, s, vt = torch.linalg.svd(change.t() if site.kind == "conv1d" else change, full_matrices=False)
        shift = after[bias] - before[bias] if bias in moved else None
        found.append(Change(site.path, u, s, vt, site.kind == "conv1d", shift))
        covered |= {weight, bias}
    if any(c.bias is not None for c in found) and any(f"{c.path}.bias" not in before for c in found):
        dropped_bias = {f"{c.path}.bias" for c in found if c.bias is not None}  # peft: all layers with a bias, or none
        covered -= dropped_bias
        for c in found:
            c.bias = None
    if not found:
        raise WorkbenchError(f"{revived.adapter.key} changes no linear weight; export it as merged or bundle.")
    return found, sorted(moved - covered)


def _smallest(revived: Revived, changes: list[Change], full: int, gap: Callable[[], float], limit: float) -> int:
    """The smallest rank whose logits stay within `limit`; the full one if none does."""

    def good(rank: int) -> bool:
        with _instead(revived, changes, rank):
            return gap() <= limit

    low, high = 0, 1
    while high < full and not good(high):
        low, high = high, min(2 * high, full)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle, high)
    return high


@contextmanager
def _instead(revived: Revived, changes: list[Change], rank: int) -> Iterator[None]:
    """The host with the cut changes in its weights in place of the adapter."""
    host = revived.host
    with host.workbench.only({}):  # type: ignore[union-attr]
        originals = []
        for c in changes:
            a, b = c.factors(rank)
            module = host.get_submodule(c.path)
            news = {"weight": (b @ a).t() if c.transposed else b @ a, "bias": c.bias}
            for name, change in news.items():
                if change is not None:
                    old = module._parameters[name]
                    originals.append(([(module, name)], old))
                    place([(module, name)], nn.Parameter(old.detach() + change, requires_grad=False))  # type: ignore[union-attr]
        try:
            yield
        finally:
            for where, old in originals:
                place(where, old)  # type: ignore[arg-type]
