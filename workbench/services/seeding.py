"""More seeds of runs that are there: the same spec, restricted to some labels, with the next seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.core.errors import WorkbenchError
from workbench.core.paths import run_folder
from workbench.core.spec import parse_spec
from workbench.services import clone, results


def more_seeds(rows: Sequence[Mapping[str, Any]], labels: Sequence[str], count: int) -> list[dict[str, Any]]:
    """The specs that add `count` seeds to each of these labels, one for each experiment they come from.

    Args:
        rows: of a comparison; they say which experiment a label belongs to and which seeds it has.
        labels: as the comparison shows them.
        count: how many seeds, at least 1.

    Raises:
        WorkbenchError: nothing is chosen, or a run's spec is gone.
    """
    chosen = [row for row in rows if row["label"] in labels]
    if not chosen or count < 1:
        raise WorkbenchError(
            f"more seeds need at least one method and one seed; got {len(set(labels))} methods and {count} seeds."
        )
    start = max(row["seed"] for row in chosen) + 1
    seeds = list(range(start, start + count))
    sources: dict[str, set[str]] = {}
    taken: set[str] = set()
    for row in chosen:
        if row["label"] not in taken:  # a label that was continued elsewhere is repeated from its first experiment
            taken.add(row["label"])
            sources.setdefault(row["experiment"], set()).add(_own_label(row))
    return [_restricted(experiment, names, seeds) for experiment, names in sources.items()]


def _own_label(row: Mapping[str, Any]) -> str:
    """The label in its own experiment; a comparison of several may have added the experiment's name."""
    return str(results.run_spec(run_folder(row["run_id"])).get("label", row["label"]))


def _restricted(experiment: str, labels: set[str], seeds: list[int]) -> dict[str, Any]:
    spec = clone.clone(experiment)
    entries = zip(spec["methods"], parse_spec(spec).methods, strict=True)
    methods = [written for written, parsed in entries if parsed.label in labels]
    if not methods:
        raise WorkbenchError(f"the runs of {experiment} must still hold {', '.join(sorted(labels))}; write the spec anew.")
    return {**spec, "methods": methods, "seeds": seeds, "baseline": False}


def expected_seconds(rows: Sequence[Mapping[str, Any]], labels: Sequence[str], count: int) -> float | None:
    """What these seeds should cost one after another, from what the labels' finished runs took; None where none finished."""
    total = 0.0
    for label in dict.fromkeys(labels):
        known = [row["train_seconds"] for row in rows if row["label"] == label and row["train_seconds"] is not None]
        if not known:
            return None
        total += count * sum(known) / len(known)
    return total
