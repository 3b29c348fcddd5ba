"""Bytes and floating point operations of a training, from the sites alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.core.types import Site

MATRICES = ("linear", "conv1d", "conv2d")
ADAM_BYTES = 8  # two fp32 moments
FULL_BYTES = 4  # adapters, heads and their gradients are fp32
PART, SIDE = 1.5, 10.0
"""Numbers kept per input and output width of an adapted site, and per width that a network beside the base reads [measured]."""


@dataclass(frozen=True)
class Reach:
    """How far the backward pass goes into the base.

    Attributes:
        lowest: block whose output is the lowest that needs a gradient; -1 = down to the embedding, None = the base needs none.
        trained: paths of base modules whose own weights train.
        adapted: the sites that carry a part.
        taps: widths of the block outputs that a network beside the base reads.
    """

    lowest: int | None
    trained: frozenset[str]
    adapted: tuple[Site, ...] = ()
    taps: tuple[int, ...] = ()

    def includes(self, site: Site) -> bool:
        """Whether gradients flow through this site."""
        return self.lowest is not None and (site.depth < 0 or site.depth >= self.lowest)


def unique(sites: Sequence[Site]) -> list[Site]:
    """One site per module (a weight that holds several roles counts once), with the whole weight's shape."""
    return list({s.path: s for s in sites if s.kind != "point"}.values())


def rows_of(site: Site) -> int:
    """Output width of the whole module."""
    weight = dict(site.tensors).get("weight")
    if weight is None or site.rows is None:
        return site.d_out
    return weight[1] if site.kind == "conv1d" else weight[0]


def forward_flops(sites: Sequence[Site]) -> float:
    """Operations per position of one forward pass: two per weight of every matrix inside the blocks."""
    return sum(2.0 * rows_of(s) * s.d_in for s in unique(sites) if s.kind in MATRICES and s.depth >= 0)


def attention_flops(sites: Sequence[Site], length: float) -> float:
    """Operations per position of all attention products: queries with keys, weights with values."""
    widths = [s.d_out for s in sites if s.role == "attn.q"]
    return sum(4.0 * length * w for w in widths)


def backward_flops(sites: Sequence[Site], reach: Reach, length: float) -> float:
    """Operations per position: gradients of the inputs where the pass reaches, of the weights where they train."""
    inside = [s for s in unique(sites) if s.kind in MATRICES and s.depth >= 0 and reach.includes(s)]
    through = sum(2.0 * rows_of(s) * s.d_in for s in inside)
    own = sum(2.0 * rows_of(s) * s.d_in for s in inside if s.path in reach.trained)
    attention = attention_flops([s for s in sites if reach.includes(s)], length)
    return through + own + 2 * attention


def activation_floats(sites: Sequence[Site], reach: Reach, dropout: float, scores: int) -> float:
    """Numbers per position kept for the backward pass.

    Outputs of matrices and inputs of norms wherever gradients flow, and what the parts keep of their own input and output.

    Args:
        sites: all sites of the host.
        reach: how far gradients flow.
        dropout: numbers kept per dropped number: 1 where masks are floats, 1/4 where they are bytes, 0 without dropout.
        scores: numbers that a block's attention keeps per position (heads x length x copies), 0 for fused attention.
    """
    kept = [s for s in unique(sites) if s.depth >= 0 and reach.includes(s)]
    outputs = sum(rows_of(s) for s in kept if s.kind in MATRICES)
    norms = sum(s.d_out for s in kept if s.role == "norms")
    blocks = len({s.depth for s in kept})
    parts = sum(PART * (s.d_in + s.d_out) for s in reach.adapted)
    return outputs + (2 + dropout) * norms + blocks * scores + parts + SIDE * sum(reach.taps)


def passing_floats(sites: Sequence[Site]) -> float:
    """Numbers per position alive at once in a forward pass that keeps nothing: the widest block's outputs."""
    by_block: dict[int, int] = {}
    for s in unique(sites):
        if s.kind in MATRICES and s.depth >= 0:
            by_block[s.depth] = by_block.get(s.depth, 0) + rows_of(s)
    return max(by_block.values(), default=0)
