"""LoRA subspace: the principal directions that several LoRA adapters of one base share, as one `eigenlorax` adapter.

    M_A = [A_1^T ... A_T^T]: (d_in, T r),  M_B = [s_1 B_1 ... s_T B_T]: (d_out, T r)      for every site
    M = U S Q^T      V = the first K columns of U, then J random columns orthogonal to them
    C = V^T A_t^T or V^T s_t B_t       loadings of source t; its change comes back as V_B C_B C_A^T V_A^T

Every source's scale s goes into its B. `centre: kept` takes the mean column of M away before the decomposition and keeps its
direction as the first column of V, so that K = T r is exact; `dropped` loses it, as the released code does. The result's
`reconstruction` says how much of every source's change is lost, its `spectrum` how much of M the first k columns hold.

Deviates from the paper: without centring by default, because a mean that is not stored cannot come back.
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from workbench.core.errors import WorkbenchError
from workbench.core.types import Paper
from workbench.kernel import state
from workbench.kernel.host import adapters_of
from workbench.kernel.state import Stored
from workbench.methods.low_rank.eigenlorax import orthonormal
from workbench.operations.contract import operation

Factors = dict[str, tuple[Tensor, Tensor]]
"""Site key -> (A^T (d_in, r), s B (d_out, r))."""
Bases = dict[tuple[str, str], Tensor]
"""(site key, "A" or "B") -> V (d, K + J)."""


@operation(least=1, paper=Paper("Kaushik et al., 2025", "https://arxiv.org/abs/2502.04700", 92))
def lora_subspace(
    adapters: list[Stored],
    host: nn.Module,
    *,
    components: Annotated[
        int | None, Field(ge=1, le=4096, description="Principal columns K of each basis; empty = all that the sources have.")
    ] = None,
    extra: Annotated[int, Field(ge=0, le=4096, description="Random columns J, orthogonal to the principal ones.")] = 0,
    centre: Annotated[
        Literal["none", "kept", "dropped"],
        Field(description="The mean column: left in, kept as a column of its own, or dropped as in the released code."),
    ] = "none",
    loadings: Annotated[
        Literal["first", "mean", "zero", "uniform"],
        Field(description="Loadings: the first source's, the mean of all; or none or drawn ones with a fresh head, to train."),
    ] = "first",
    seed: Annotated[int, Field(ge=0, le=2**31 - 1, description="Seed of what is drawn.")] = 0,
) -> Stored:
    """See the module's docstring.

    Raises:
        WorkbenchError: a source is no LoRA, the sources differ in sites or rank, or more columns are asked for than there are.
    """
    first, gen = adapters[0], torch.Generator().manual_seed(seed)
    head = {f"{h}.{n}": v.clone() for h in first.meta["head"] for n, v in host.get_submodule(h).state_dict().items()}
    sources = [_factors(host, one) for one in adapters]
    rank, wide = _checked(sources, components, extra)
    bases, spectrum = _bases(sources, wide, extra, centre, gen)
    tensors = {f"{key}.V_{name}": value for (key, name), value in bases.items()} | _loadings(sources, bases, loadings, gen)
    place = {n: first.meta["config"].get(n) for n in ("roles", "depths", "tower")}
    config = {**place, "rank": rank, "components": wide + extra, "zero_b": loadings == "zero"}
    names = [one.meta.get("run_id") or one.meta.get("label") for one in adapters]
    lost = [{"adapter": n, "error": lost_share(s, bases)} for n, s in zip(names, sources, strict=True)]
    facts = {"method": "eigenlorax", "config": config, "preset": None, "modifiers": [], "recipe": None}
    meta = {**first.meta, **facts, "reconstruction": lost, "spectrum": spectrum}
    return Stored(meta, tensors, first.head if loadings in ("first", "mean") else head)


def _bases(
    sources: list[Factors], wide: int, extra: int, centre: str, gen: torch.Generator
) -> tuple[Bases, dict[str, list[float]]]:
    """Both bases of every site, and per side the share of M that the first k principal columns hold, averaged over the sites."""
    bases: Bases = {}
    shares: dict[str, list[Tensor]] = {"A": [], "B": []}
    for key in sources[0]:
        for side, name in enumerate("AB"):
            found, share = principal([s[key][side] for s in sources], wide, centre)
            bases[key, name] = torch.cat([found, orthonormal(len(found), extra, gen, found)], 1)
            shares[name].append(share)
    return bases, {name: torch.stack(some).mean(0).tolist() for name, some in shares.items()}


def _loadings(sources: list[Factors], bases: Bases, how: str, gen: torch.Generator) -> dict[str, Tensor]:
    """C_A and C_B (K + J, r) of every site by their stored names."""
    found: dict[str, Tensor] = {}
    for (key, name), value in bases.items():
        own = torch.stack([value.t() @ s[key]["AB".index(name)] for s in sources])  # (T, K + J, r)
        drawn = torch.rand(own.shape[1:], generator=gen) - 0.5
        found[f"{key}.C_{name}"] = {"first": own[0], "mean": own.mean(0), "zero": drawn * (name == "A"), "uniform": drawn}[how]
    return found


def _factors(host: nn.Module, source: Stored) -> Factors:
    """Both factors of every site, with modifiers applied and the scale in B."""
    if source.meta["method"] != "lora":
        raise WorkbenchError(f"lora_subspace reads adapters of the method lora; got one of {source.meta['method']}.")
    adapter = state.restore(host, source, "operand")
    parts: list[tuple[str, Any]] = list(adapter.named_parts())
    found = {key: (part.A.detach().t().clone(), part.scale * part.B.detach()) for key, part in parts}
    adapters_of(host).release()
    return found


def _checked(sources: list[Factors], components: int | None, extra: int) -> tuple[int, int]:
    """(rank of the sources, principal columns).

    Raises:
        WorkbenchError: the sources differ, or more columns are asked for than there are.
    """
    shapes = [{key: (a.shape, b.shape) for key, (a, b) in one.items()} for one in sources]
    if any(other != shapes[0] for other in shapes):
        raise WorkbenchError("lora_subspace needs adapters with the same sites and rank; these differ.")
    rank = next(iter(shapes[0].values()))[0][1]
    narrow = min(min(len(a), len(b)) for a, b in sources[0].values())
    most = min(len(sources) * rank, narrow)
    wide = min(most, narrow - extra) if components is None else components
    if wide > most:
        raise WorkbenchError(
            f"components must be at most {most} for {len(sources)} adapters of rank {rank}; got {wide}: set extra for more."
        )
    if wide < 1 or wide + extra > narrow:
        raise WorkbenchError(f"components and extra must add up to at most {narrow}, the narrowest side; got {wide} and {extra}.")
    return rank, wide


def principal(factors: list[Tensor], wide: int, centre: str = "none") -> tuple[Tensor, Tensor]:
    """(V (n, wide), share of the squares of M that its first k columns hold (wide,)) of factors (n, r)."""
    columns = torch.cat(factors, 1)
    mean = columns.mean(1, keepdim=True)
    left = torch.linalg.svd(columns if centre == "none" else columns - mean, full_matrices=False).U
    if centre == "kept":
        left = torch.linalg.qr(torch.cat([mean, left[:, : wide - 1]], 1)).Q
    found = left[:, :wide].contiguous()
    return found, (found.t() @ columns).square().sum(1).cumsum(0) / columns.square().sum().clamp_min(1e-30)


def lost_share(source: Factors, bases: Bases) -> float:
    """|| dW - dW in the bases || / || dW || of one source over all its sites, Frobenius norms; 0 where it changes nothing."""
    lost = total = 0.0
    for key, (a, b) in source.items():
        kept = bases[key, "B"] @ (bases[key, "B"].t() @ b) @ (bases[key, "A"] @ (bases[key, "A"].t() @ a)).t()
        lost += float((b @ a.t() - kept).square().sum())
        total += float((b @ a.t()).square().sum())
    return (lost / total) ** 0.5 if total else 0.0
