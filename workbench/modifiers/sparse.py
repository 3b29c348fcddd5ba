"""Sparse: an adapter is pruned before training and only the survivors train.

    W' = W * z      z in {0, 1}, the shape of W; per group the floor(keep n) entries of largest score stay, at least one

    random     uniform noise
    magnitude  |w|
    snip       |w dL/dw|, L summed over training batches, divided by the sum over all entries
    grasp      w (H g), g = dL/dw and H its Hessian, with its sign
    synflow    |w dR/dw|, R = the sum of what each part makes of an input of ones with every tensor at its absolute value

W is every 2-D tensor of the adapter; biases, vectors and base tensors are never pruned. A group is the whole adapter
(`scope: global`) or each matrix (`scope: local`). A matrix that starts at zero, like LoRA's B, gives every score but
`random` nothing to rank, so it is first drawn from N(0, 0.02) as in the authors' code; the adapter then no longer
starts exactly at the base. With a larger inner width at a smaller `keep` this is Large-Sparse: rank 4r at keep 0.25
stores as many values as rank r.

Parameters per model: floor(keep n) of the n entries of its matrices, and everything that is no matrix.

Deviates from the paper: synflow looks at each part alone, since the frozen base between the parts takes no part in it.
`keep` is the fraction that stays; the paper's s is the fraction that goes.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize

from workbench.core.errors import WorkbenchError
from workbench.core.types import Config, Paper
from workbench.kernel.adapter import Adapter
from workbench.kernel.contract import ActivationPart, Modifier, WeightPart

Losses = list[Callable[[], Tensor]]
BERT_STD = 0.02


class SparseConfig(Config):
    """Options of pruning at the start."""

    score: Literal["snip", "grasp", "magnitude", "random", "synflow"] = Field(
        "snip", description="What decides which entries stay."
    )
    keep: float = Field(0.6, gt=0, le=1, description="Fraction of the entries that stay.")
    scope: Literal["global", "local"] = Field(
        "global", description="Rank all matrices together (global) or each on its own (local)."
    )


class Mask(nn.Module):
    """Parametrization W -> W * z."""

    def __init__(self, keep: Tensor) -> None:
        """keep: booleans of W's shape."""
        super().__init__()
        self.register_buffer("keep", keep)

    def forward(self, weight: Tensor) -> Tensor:
        return torch.where(self.keep, weight, 0.0)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Assigning a value sets the matrix under the mask."""
        return weight


class Sparse(Modifier):
    """See the module's docstring."""

    Config = SparseConfig
    paper = Paper("He et al., 2022", "https://arxiv.org/abs/2210.04284", 11)

    @classmethod
    def apply(cls, cfg: SparseConfig, adapter: Adapter, losses: Iterable[Callable[[], Tensor]], gen: torch.Generator) -> None:
        """Mask every matrix of the adapter.

        Args:
            cfg: score, keep, scope.
            adapter: freshly built.
            losses: calls that return one batch's loss; snip and grasp use all of them.
            gen: for `random`, and for matrices that start at zero.

        Raises:
            WorkbenchError: the adapter has no matrix, the score needs what is not there, or it ranks nothing.
        """
        found = matrices(adapter)
        if not found:
            raise WorkbenchError(f"sparse needs an adapter with matrices of its own; {adapter.key} has none.")
        if cfg.score != "random":
            _leave_zero(found, gen)
        scores = SCORES[cfg.score](adapter, found, list(losses), gen)
        bad = [name for name, s in scores.items() if not torch.isfinite(s).all()]
        if bad or not any(s.any() for s in scores.values()):
            raise WorkbenchError(
                f"sparse cannot rank {adapter.key} by {cfg.score}: the scores are {'not finite' if bad else 'all zero'}."
            )
        for name, keep in masks(scores, cfg).items():
            parametrize.register_parametrization(*found[name], Mask(keep))

    @classmethod
    def count(cls, cfg: SparseConfig, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Kept entries of the matrices plus all of the vectors; base tensors and the head are counted elsewhere."""
        own = [s for n, s in shapes.items() if not n.startswith(("base.", "head."))]
        sizes = [math.prod(s) for s in own if len(s) == 2]
        groups = sizes if cfg.scope == "local" else [sum(sizes)] * bool(sizes)
        return sum(kept(cfg.keep, n) for n in groups) + sum(math.prod(s) for s in own if len(s) != 2)


def kept(keep: float, entries: int) -> int:
    """How many of so many entries stay."""
    return max(1, math.floor(keep * entries + 1e-6))  # 1e-6: 0.7 * 10 is a little under 7 in binary


def matrices(adapter: Adapter) -> dict[str, tuple[nn.Module, str]]:
    """Name -> (module, attribute) of every trainable 2-D tensor of the adapter, in a fixed order."""
    found: dict[str, tuple[nn.Module, str]] = {}
    for path, module in adapter.named_modules():
        if path.startswith("chosen") or "parametrizations" in path.split("."):
            continue
        chains = getattr(module, "parametrizations", {})
        plain = {n: p for n, p in module._parameters.items() if p is not None} | {
            n: chain.original for n, chain in chains.items()
        }
        found |= {f"{path}.{n}": (module, n) for n, p in plain.items() if p.requires_grad and p.dim() == 2}
    return found


def _leaf(module: nn.Module, name: str) -> nn.Parameter:
    chains = getattr(module, "parametrizations", {})
    return chains[name].original if name in chains else getattr(module, name)


def _leave_zero(found: Mapping[str, tuple[nn.Module, str]], gen: torch.Generator) -> None:
    for module, name in found.values():
        leaf = _leaf(module, name)
        if not leaf.any():
            with torch.no_grad():
                leaf.copy_(BERT_STD * torch.randn(leaf.shape, generator=gen))


def masks(scores: Mapping[str, Tensor], cfg: SparseConfig) -> dict[str, Tensor]:
    """Booleans per matrix: the entries of largest score stay, exactly as many as `kept` says."""
    groups = [list(scores)] if cfg.scope == "global" else [[name] for name in scores]
    found: dict[str, Tensor] = {}
    for names in groups:
        flat = torch.cat([scores[n].flatten() for n in names])
        stays = torch.zeros_like(flat, dtype=torch.bool)
        stays[flat.argsort(descending=True, stable=True)[: kept(cfg.keep, flat.numel())]] = True
        pieces = stays.split([scores[n].numel() for n in names])
        found |= {n: piece.view_as(scores[n]).clone() for n, piece in zip(names, pieces, strict=True)}
    return found


def _batches(losses: Losses, score: str) -> Iterator[Tensor]:
    if not losses:
        raise WorkbenchError(
            f"sparse by {score} needs the loss of at least one training batch; use magnitude, random or synflow."
        )
    for loss in losses:
        yield loss()


def _gradients(outcome: Tensor, leaves: list[nn.Parameter], again: bool = False) -> list[Tensor]:
    """d outcome / d leaf, zero where the outcome does not depend on it."""
    found = torch.autograd.grad(outcome, leaves, create_graph=again, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, found, strict=True)]


def snip(adapter: Adapter, found: Mapping[str, tuple[nn.Module, str]], losses: Losses, gen: torch.Generator) -> dict[str, Tensor]:
    """|w dL/dw| over its sum: how much the loss changes when an entry goes."""
    leaves = [_leaf(*place) for place in found.values()]
    total = [torch.zeros_like(p) for p in leaves]
    for loss in _batches(losses, "snip"):
        total = [t + g for t, g in zip(total, _gradients(loss, leaves), strict=True)]
    raw = [(p.detach() * g).abs() for p, g in zip(leaves, total, strict=True)]
    whole = sum(r.sum() for r in raw)
    return dict(zip(found, [r / whole if whole else r for r in raw], strict=True))


def grasp(
    adapter: Adapter, found: Mapping[str, tuple[nn.Module, str]], losses: Losses, gen: torch.Generator
) -> dict[str, Tensor]:
    """w (H g): how much the norm of the gradient changes; two passes over the batches."""
    leaves = [_leaf(*place) for place in found.values()]
    first, second = ([torch.zeros_like(p) for p in leaves] for _ in range(2))
    for loss in _batches(losses, "grasp"):
        first = [t + g for t, g in zip(first, _gradients(loss, leaves), strict=True)]
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        for loss in _batches(losses, "grasp"):
            product = sum((f * g).sum() for f, g in zip(first, _gradients(loss, leaves, again=True), strict=True))
            second = [t + g for t, g in zip(second, _gradients(product, leaves), strict=True)]
    return dict(zip(found, [p.detach() * s for p, s in zip(leaves, second, strict=True)], strict=True))


def magnitude(
    adapter: Adapter, found: Mapping[str, tuple[nn.Module, str]], losses: Losses, gen: torch.Generator
) -> dict[str, Tensor]:
    """|w|."""
    return {name: getattr(*place).detach().abs() for name, place in found.items()}


def random(
    adapter: Adapter, found: Mapping[str, tuple[nn.Module, str]], losses: Losses, gen: torch.Generator
) -> dict[str, Tensor]:
    """Uniform noise in (0, 1]."""
    return {
        name: (1 - torch.rand(p.shape, generator=gen)).to(p.device) for name, place in found.items() for p in [getattr(*place)]
    }


def synflow(
    adapter: Adapter, found: Mapping[str, tuple[nn.Module, str]], losses: Losses, gen: torch.Generator
) -> dict[str, Tensor]:
    """|w dR/dw| of each part on an input of ones, every tensor at its absolute value; no data."""
    if adapter.method.needs:
        raise WorkbenchError(
            f"sparse by synflow uses no data, and {adapter.key} needs {adapter.method.needs[0]!r} of every batch; use snip."
        )
    leaves = [_leaf(*place) for place in found.values()]
    everything = [p for p in adapter.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in everything]
    with torch.no_grad():
        for p in everything:
            p.abs_()
    try:
        flow = sum(_flow(part, leaves[0].device) for _, part in adapter.named_parts())
        scores = [(p.detach() * g).abs() for p, g in zip(leaves, _gradients(flow, leaves), strict=True)]
    finally:
        with torch.no_grad():
            for p, old in zip(everything, before, strict=True):
                p.copy_(old)
    return dict(zip(found, scores, strict=True))


def _flow(part: nn.Module, device: torch.device) -> Tensor:
    """What one part makes of ones."""
    if isinstance(part, WeightPart) and not part.whole:
        return part.delta(torch.ones(part.site.shape, device=device), {}).sum()
    if isinstance(part, ActivationPart):
        x, h = (torch.ones(1, 1, width, device=device) for width in (part.site.d_in, part.site.d_out))
        return part.edit(h, x, {}).sum()
    raise WorkbenchError(f"sparse by synflow works on native weight and activation parts; {type(part).__name__} is neither.")


SCORES = {"snip": snip, "grasp": grasp, "magnitude": magnitude, "random": random, "synflow": synflow}
