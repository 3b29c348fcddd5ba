"""Which examples go together: batches of similar length, shuffled by a seed, the same order on every machine."""

import itertools
import math
import random
from collections.abc import Iterator, Sequence

from workbench.tasks.contract import Example

WINDOW = 50
"""Batches per shuffled window; inside one, examples are sorted by length."""


def epoch(examples: Sequence[Example], size: int, seed: int, number: int) -> list[list[Example]]:
    """The batches of one epoch.

    The examples are shuffled, cut into windows, sorted by length inside each, and the batches shuffled again. A rest
    smaller than a batch is spread: batch sizes differ by at most one.

    Args:
        examples: the training rows.
        size: examples per batch.
        seed, number: of the run and of the epoch; equal values give an equal order.
    """
    rng = random.Random(seed * 1_000_003 + number)
    order = list(examples)
    rng.shuffle(order)
    window = size * WINDOW
    order = [e for i in range(0, len(order), window) for e in sorted(order[i : i + window], key=lambda e: e.length)]
    count = math.ceil(len(order) / size)
    cuts = [len(order) * i // count for i in range(count + 1)]
    batches = [order[a:b] for a, b in itertools.pairwise(cuts)]
    rng.shuffle(batches)
    return batches


def forever(examples: Sequence[Example], size: int, seed: int) -> Iterator[list[Example]]:
    """Epoch after epoch."""
    number = 0
    while True:
        yield from epoch(examples, size, seed, number)
        number += 1


def sample(examples: Sequence[Example], count: int, size: int, seed: int) -> list[list[Example]]:
    """Batches of `count` examples drawn by a seed (all of them where there are fewer)."""
    chosen = random.Random(seed).sample(list(examples), min(count, len(examples)))
    return [chosen[i : i + size] for i in range(0, len(chosen), size)]


def steps_per_epoch(rows: int, size: int, accumulation: int) -> int:
    """Optimizer steps of one epoch."""
    return math.ceil(math.ceil(rows / size) / accumulation)
