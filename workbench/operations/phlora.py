"""PHLoRA: a low-rank adapter is read off a fully fine-tuned model, without data and without training.

    dW = W_ft - W_base = U S V^T      B = U_r sqrt(S_r): (d_out, r),  A = sqrt(S_r) V_r^T: (r, d_in),  alpha = r

The best rank-r adapter in Frobenius norm for every linear weight (Eckart-Young). Give a rank, or the share of the energy
sum s_i^2 to keep; then each weight gets the rank it needs and the adapter the largest of them, filled up with zeros.

Deviates from the paper: norms, biases, embeddings and convolutions are outside the method; what they had learnt is left
out and named in the result's `dropped`.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.core.types import Paper, Site
from workbench.kernel import state
from workbench.kernel.attach import matrix
from workbench.kernel.host import adapters_of
from workbench.kernel.state import Stored
from workbench.operations.contract import operation

ROLES = ("attn.q", "attn.k", "attn.v", "attn.out", "ffn.up", "ffn.gate", "ffn.down")


@operation(least=1, most=1, paper=Paper("Vasani et al., 2025", "https://arxiv.org/abs/2509.10971", 64))
def phlora(
    adapters: list[Stored],
    host: nn.Module,
    *,
    rank: Annotated[int, Field(ge=1, le=4096, description="Largest rank per weight.")] = 32,
    energy: Annotated[
        float | None, Field(gt=0, le=1, description="Share of the squared singular values to keep; empty = use rank.")
    ] = None,
) -> Stored:
    """See the module's docstring.

    Raises:
        WorkbenchError: the adapter is not one that changed base tensors directly.
    """
    source = adapters[0]
    if not any(k.startswith("base.") for k in source.tensors):
        raise WorkbenchError(f"phlora reads adapters that trained base tensors (full); {source.meta['method']} did not.")
    changes, dropped = _changes(host, source)
    factors = {site.key: svd(change, rank, energy) for site, change in changes}
    widest = max(a.shape[0] for a, _, _ in factors.values())
    tensors: dict[str, Tensor] = {}
    for key, (a, b, _) in factors.items():
        tensors[f"{key}.A"] = nn.functional.pad(a, (0, 0, 0, widest - a.shape[0]))
        tensors[f"{key}.B"] = nn.functional.pad(b, (0, widest - b.shape[1]))
    config = {"rank": widest, "alpha": float(widest), "roles": sorted({s.role for s, _ in changes}, key=ROLES.index)}
    kept = {key: share for key, (_, _, share) in factors.items()}
    meta = {**source.meta, "method": "lora", "config": config, "preset": None, "energy": kept, "dropped": dropped}
    return Stored(meta, tensors, source.head)


def _changes(host: nn.Module, source: Stored) -> tuple[list[tuple[Site, Tensor]], list[str]]:
    """(site, dW) for every linear site, and the names of changed tensors that no linear site covers."""
    adapters = adapters_of(host, tuple(source.meta.get("head", ())))
    sites = [s for s in adapters.sites if s.role in ROLES and s.kind in ("linear", "conv1d")]
    before = [matrix(host.get_submodule(s.path), s).clone() for s in sites]
    adapter = state.restore(host, source, "operand")
    found = [(s, matrix(host.get_submodule(s.path), s) - b) for s, b in zip(sites, before, strict=True)]
    covered = {f"{s.path}.weight" for s in sites}
    dropped = [n for n, (base, own, _) in adapter.originals().items() if n not in covered and not torch.equal(base, own)]
    adapters.release()
    return found, dropped


def svd(change: Tensor, rank: int, energy: float | None) -> tuple[Tensor, Tensor, float]:
    """(A (r, d_in), B (d_out, r), share of the energy kept) of the best low-rank form of a change (d_out, d_in)."""
    u, s, vt = torch.linalg.svd(change.float(), full_matrices=False)
    total = s.double().square().sum()
    share = s.double().square().cumsum(0) / total if total > 0 else torch.ones(len(s), dtype=torch.float64)
    r = min(rank, len(s)) if energy is None else int((share < energy - 1e-12).sum()) + 1
    r = min(r, len(s))
    root = s[:r].sqrt()
    return root[:, None] * vt[:r], u[:, :r] * root, float(share[r - 1])
