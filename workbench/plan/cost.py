"""Bytes and floating point operations of a training, from the sites alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.core.types import Site

MATRICES = ("linear", "conv1d", "conv2d")
ADAM_BYTES = 8  # two fp32 moments
FULL_BYTES = 4  # adapters, heads and their gradients are fp32
PART = 1.85
"""Numbers kept per number that passes through a part: its input, its output and what lies between [measured]."""
RMS = 0.6
"""What a norm without a bias keeps beyond its input: it is written out in single operations [measured]."""
SHARED_INPUT = {"attn.k": "attn.q", "attn.v": "attn.q", "ffn.gate": "ffn.up"}
"""Roles that read what another one has already kept."""


@dataclass(frozen=True)
class Reach:
    """How far the backward pass goes into the base.

    Attributes:
        lowest: block whose output is the lowest that needs a gradient; -1 = down to the embedding, None = the base needs none.
        trained: paths of base modules whose own weights train.
        numbers: numbers per position that pass through the parts.
        virtual: tokens that the parts put before every example.
    """

    lowest: int | None
    trained: frozenset[str]
    numbers: float = 0.0
    virtual: int = 0

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


def matrix_size(sites: Sequence[Site]) -> int:
    """Weights of every matrix inside the blocks."""
    return sum(rows_of(s) * s.d_in for s in unique(sites) if s.kind in MATRICES and s.depth >= 0)


def width(sites: Sequence[Site]) -> int:
    """Width of the residual stream."""
    return max((s.d_out for s in sites if s.role == "block.out"), default=0)


def forward_flops(sites: Sequence[Site]) -> float:
    """Operations per position of one forward pass: two per weight of every matrix inside the blocks."""
    return 2.0 * matrix_size(sites)


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


def kept_floats(sites: Sequence[Site], reach: Reach, masks: float, scores: float) -> float:
    """Numbers per position kept for the backward pass, wherever gradients flow.

    A frozen matrix keeps nothing; what reads its output does. Attention keeps queries, keys, values and its result, a gated
    feed-forward also the activated gate, a norm its input, and a matrix that trains its own input.

    Args:
        sites: all sites of the host.
        reach: how far gradients flow.
        masks: numbers kept per dropped number: 1 where masks are floats, 1/4 where they are bytes, 0 without dropout.
        scores: numbers that a block's attention keeps per position (heads x length x copies), 0 for fused attention.
    """
    kept = [s for s in unique(sites) if s.depth >= 0 and reach.includes(s)]
    matrices = sum(_matrix_floats(s) for s in kept if s.kind in MATRICES)
    norms = sum(s.d_out * (1 + masks + (0 if s.bias else RMS)) for s in kept if s.role == "norms")
    inputs = {(s.depth, SHARED_INPUT.get(s.role, s.role)): s.d_in for s in kept if s.path in reach.trained and s.kind in MATRICES}
    blocks = len({s.depth for s in kept})
    return matrices + norms + sum(inputs.values()) + blocks * scores + PART * reach.numbers


def _matrix_floats(site: Site) -> int:
    """Numbers that are kept on account of one matrix."""
    wide = rows_of(site)
    return {"attn.out": site.d_in, "ffn.down": 0, "ffn.gate": 2 * wide}.get(site.role, wide)


def dropped_floats(sites: Sequence[Site], hidden: bool, scores: float) -> float:
    """Numbers per position for which a training pass draws whether to drop them.

    Args:
        sites: all sites of the host.
        hidden: whether sublayer outputs are dropped.
        scores: attention scores of a block per position (heads x length) if they are dropped, else 0.
    """
    blocks = {s.depth: s.d_out for s in sites if s.role == "block.out"}
    return sum(blocks.values()) * 2 * hidden + len(blocks) * scores


def passing_floats(sites: Sequence[Site]) -> float:
    """Numbers per position alive at once in a forward pass that keeps nothing: the widest block's outputs."""
    by_block: dict[int, int] = {}
    for s in unique(sites):
        if s.kind in MATRICES and s.depth >= 0:
            by_block[s.depth] = by_block.get(s.depth, 0) + rows_of(s)
    return max(by_block.values(), default=0)
