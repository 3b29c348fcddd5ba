"""Dividing rows: by content hash, stratified by label, so that equal contents stay together and row order does not matter."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from workbench.core.errors import WorkbenchError


def _rank(seed: int, key: str) -> str:
    return hashlib.blake2b(f"{seed}\0{key}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _groups(keys: Sequence[str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        groups[key].append(index)
    return groups


def stratified_order(keys: Sequence[str], labels: Sequence[str] | None, seed: int) -> list[list[int]]:
    """Groups of equal keys, ordered so that every prefix holds the labels in proportion.

    Each label's groups are shuffled by a hash of seed and content and spread evenly over [0, 1); the order is by that
    position. The last group of every label comes at the very end, so that cutting a prefix away leaves a row of each label.

    Args:
        keys: one text per row; equal keys form one group.
        labels: one label per row, or None.
        seed: changes the shuffle.

    Returns:
        Row indices by group.
    """
    by_label: dict[str, list[tuple[str, list[int]]]] = defaultdict(list)
    for key, rows in _groups(keys).items():
        by_label[labels[rows[0]] if labels else ""].append((_rank(seed, key), rows))
    placed: list[tuple[float, str, list[int]]] = []
    for groups in by_label.values():
        groups.sort(key=lambda group: group[0])
        total, before = sum(len(rows) for _, rows in groups), 0
        for rank, rows in groups[:-1]:
            placed.append(((before + len(rows) / 2) / total, rank, rows))
            before += len(rows)
        placed.append((1.0, groups[-1][0], groups[-1][1]))
    placed.sort(key=lambda entry: entry[:2])
    return [rows for _, _, rows in placed]


def _take(order: list[list[int]], wanted: int) -> tuple[list[int], list[list[int]]]:
    """Whole groups from the front until `wanted` rows are reached, and the groups left; one that overshoots is passed over."""
    taken: list[int] = []
    left: list[list[int]] = []
    for group in order:
        if len(taken) + len(group) <= wanted or not taken:
            taken += group
        else:
            left.append(group)
    return sorted(taken), left


def divide(
    keys: Sequence[str], labels: Sequence[str] | None, fractions: tuple[float | None, float | None], seed: int
) -> tuple[list[int], list[int], list[int]]:
    """Cut rows into (train, validation, test) indices, each in source order.

    Args:
        keys: content of each row; equal keys are never separated.
        labels: one per row, or None.
        fractions: of all rows, for (validation, test); None where that split comes from elsewhere.
        seed: of the data, never of a run. The test rows depend on the rows, the seed and the test fraction alone.

    Raises:
        WorkbenchError: fewer different rows than splits.
    """
    order = stratified_order(keys, labels, seed)
    needed = 1 + sum(fraction is not None for fraction in fractions)
    if len(order) < needed:
        raise WorkbenchError(
            f"the data must have at least {needed} different rows to be split; it has {len(order)}: add rows or give files."
        )
    taken: list[list[int]] = [[], []]
    for position in (1, 0):  # test first, so that it does not depend on the validation fraction
        fraction = fractions[position]
        if fraction is not None:
            taken[position], order = _take(order, max(1, round(fraction * len(keys))))
    train = sorted(index for group in order for index in group)
    if not train or (fractions[0] is not None and not taken[0]):
        raise WorkbenchError(
            "the data must leave rows for training after validation and test; its rows repeat the same contents too often: "
            "add different rows or give files for the splits."
        )
    return train, taken[0], taken[1]


def limited(rows: list[int], keys: Sequence[str], labels: Sequence[str] | None, limit: int | None, seed: int) -> list[int]:
    """At most `limit` of the training rows, labels in proportion, in source order; a smaller limit is a subset of a larger."""
    if limit is None or limit >= len(rows):
        return rows
    order = stratified_order([f"{keys[i]}\0{i}" for i in rows], [labels[i] for i in rows] if labels else None, seed)
    return sorted(rows[group[0]] for group in order[:limit])
