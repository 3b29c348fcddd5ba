"""Starting points for an experiment, made from facts: what fits this base and task, how large it is, how long the rows are."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.core.spec import TrainingSpec
from workbench.services import catalogue, shares

TINY = 0.001
"""Share of the base below which an adapter is tiny."""
MOST_TINY, KINDS, SEEDS = 6, 5, (0, 1, 2)
LOOK, ENOUGH, MOST_EPOCHS = 100, 300, 10
"""Steps of a quick look; steps that a comparison aims at, in at most so many epochs."""
STEP, SHORTEST = 8, 16
USUAL = TrainingSpec()
Entry = Mapping[str, Any]


def facts(preview: Mapping[str, Any], view: Mapping[str, Any] | None) -> dict[str, Any]:
    """What starting points are made from.

    Args:
        preview: what `data.ask` answered.
        view: what `data.ask_tokens` answered; None where it could not be asked.

    Returns:
        {rows, max_length}: training rows, and the length that leaves 95 % of them whole (None where rows are no tokens).
    """
    cut = (view or {}).get("truncation")
    length = None
    if view is not None and cut:
        length = max(SHORTEST, math.ceil(cut["p95"] / STEP) * STEP)
        length = min(length, view["limit"]) if view["limit"] else length
    return {"rows": preview["counts"].get("train", 0), "max_length": length}


def suggest(
    entries: Sequence[Entry], sizes: Mapping[str, float | None], base_params: int, known: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Three or four sensible experiments; what cannot be used on this base and task is left out.

    Args:
        entries: methods and presets of the catalogue.
        sizes: key -> share of the base it trains, None where it cannot be used; see `shares`.
        base_params: scalars of the base.
        known: see `facts`.

    Returns:
        [{name, title, why, methods, training, seeds}]; methods, training and seeds as in a spec.
    """
    usable = [e for e in entries if e["preset_of"] is None and sizes.get(e["key"])]
    if not usable:
        return []
    length = known["max_length"]
    common = {"max_length": length} if length and length != USUAL.max_length else {}
    longer = {**common, **_epochs(known["rows"])}
    anchor = next((e for e in usable if e["key"] == "lora"), usable[0])
    made = [
        _one("Quick look", f"{anchor['key']} beside the base without an adapter, {LOOK} steps, one seed: does it learn at all?",
             [anchor], {**common, "max_steps": LOOK}, SEEDS[:1]),
        _honest(usable, anchor, sizes, base_params, longer),
        _tiny(usable, sizes, base_params, longer),
        _merging(usable, longer),
    ]  # fmt: skip
    return [one for one in made if one is not None]


def _one(
    title: str, why: str, chosen: Sequence[Entry], training: Mapping[str, Any], seeds: Sequence[int], baseline: bool = True
) -> dict[str, Any]:
    methods = [e["key"] for e in chosen] + (["head_only"] if baseline else [])
    whole = f" max_length {training['max_length']} leaves 95 % of the rows whole." if "max_length" in training else ""
    name = title.lower().replace(" ", "-")
    return {
        "name": name,
        "title": title,
        "why": why + whole,
        "methods": methods,
        "training": dict(training),
        "seeds": list(seeds),
    }


def _epochs(rows: int) -> dict[str, Any]:
    """As many epochs as a comparison needs on so few rows; nothing where one is enough."""
    epochs = min(MOST_EPOCHS, math.ceil(ENOUGH / max(1, math.ceil(rows / USUAL.batch_size))))
    return {"epochs": epochs} if epochs > 1 else {}


def _honest(
    usable: Sequence[Entry], anchor: Entry, sizes: Mapping[str, float | None], base: int, training: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The anchor and of each other kind, then of each other family, the method nearest to it in size."""
    size = sizes[anchor["key"]] or 0.0
    near = sorted((e for e in usable if e is not anchor), key=lambda e: abs(math.log((sizes[e["key"]] or 0.0) / size)))
    chosen = [anchor]
    for group in ("kind", "family"):
        for entry in near:
            if len(chosen) < KINDS and all(entry[group] != one[group] for one in chosen):
                chosen.append(entry)
    if len(chosen) < 3:
        return None
    kinds = len({one["kind"] for one in chosen})
    why = (
        f"{len(chosen)} methods of {kinds} kind{'s' if kinds > 1 else ''}, each the one nearest to {anchor['key']} in size "
        f"({size * base:,.0f} scalars), and the base without an adapter; {len(SEEDS)} seeds, so that differences get an interval."
    )
    return _one("Honest comparison", why, chosen, training, SEEDS)


def _tiny(
    usable: Sequence[Entry], sizes: Mapping[str, float | None], base: int, training: Mapping[str, Any]
) -> dict[str, Any] | None:
    small = sorted((e for e in usable if (sizes[e["key"]] or 0.0) < TINY), key=lambda e: -(sizes[e["key"]] or 0.0))
    chosen = small[:MOST_TINY]
    if len(chosen) < 2:
        return None
    low, high = ((sizes[e["key"]] or 0.0) * base for e in (chosen[-1], chosen[0]))
    which = "The" if len(chosen) == len(small) else f"The largest {len(chosen)} of the"
    why = (
        f"{which} {len(small)} methods that train less than {100 * TINY:.1f} % of the base model ({low:,.0f} to {high:,.0f} "
        f"scalars), {len(SEEDS)} seeds: how small can it be?"
    )
    return _one("Tiny adapters", why, chosen, training, SEEDS)


def _merging(usable: Sequence[Entry], training: Mapping[str, Any]) -> dict[str, Any] | None:
    chosen = [e for e in usable if e["mergeable"]]
    if len(chosen) < 2:
        return None
    why = f"All {len(chosen)} methods that fold into the base's own weights and cost nothing afterwards, one seed: a first sieve."
    return _one("Everything that merges", why, chosen, training, SEEDS[:1])


def ask(task: str, model: Mapping[str, Any] | str, known: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`suggest` for a task on a base model, without importing torch here; `known` is what `facts` gives."""
    found = shares.ask(model, task)
    return suggest(catalogue.catalogue(), found["shares"], found["base_params"], known)
