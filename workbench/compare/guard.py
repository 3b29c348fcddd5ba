"""Which runs may be drawn over each other: same data, same base, same test rows, same protocol."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

FREE = ("training.learning_rate", "training.keep_checkpoints")
"""What runs may differ in besides method, config, modifiers and recipe."""
BUDGET = ("training.epochs", "training.max_steps")
"""How long is trained; methods of one experiment may differ in it, which is said."""
TOLD = ("experiment", "search", "init_from", "device")
"""Facts that keep nobody apart but are said where they differ."""
LONGEST = 60


@dataclass(frozen=True)
class Guard:
    """What may be overlaid.

    Attributes:
        groups: columns label, group; 0 is the group of the first label.
        sentences: one for each field that keeps groups apart.
        notes: differences within a group that a reader must know.
    """

    groups: pd.DataFrame
    sentences: tuple[str, ...]
    notes: tuple[str, ...]

    def of(self) -> dict[str, int]:
        """Label -> group."""
        return dict(zip(self.groups["label"], self.groups["group"], strict=True))


def guard(rows: Iterable[Mapping[str, Any]]) -> Guard:
    """Group labels by what their runs share.

    Everything in `fields` must be equal but the learning rate; epochs and steps may differ between methods of one experiment.
    Test rows are compared by their digest where runs have one.

    Args:
        rows: rows of `compare --json`: label, experiment, test_rows, search, init_from, device and
            `fields` ({"data.limit": 1000, ...}; empty = unknown, which fits everything).
    """
    facts = _facts(rows)
    first: list[str] = []
    groups: dict[str, int] = {}
    for label in facts:
        found = next((i for i, other in enumerate(first) if not _differing(facts[label], facts[other])), len(first))
        if found == len(first):
            first.append(label)
        groups[label] = found
    sentences = [_sentence(name, first, facts) for name in _apart(first, facts)]
    table = pd.DataFrame({"label": list(groups), "group": list(groups.values())})
    return Guard(table, tuple(sentences), tuple(_notes(groups, facts)))


def _facts(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Label -> what its runs must share, from its first run that tells."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        mine = found.setdefault(row["label"], {name: row.get(name) for name in TOLD})
        for name, value in (row.get("fields") or {}).items():
            if name not in FREE:
                mine.setdefault(name, value)
        if row.get("test_rows"):
            mine.setdefault("test rows", row["test_rows"])
        if row.get("precision"):
            mine["training.precision"] = row["precision"]  # what `auto` became
    return found


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Fields that keep two labels apart; what one of them does not tell keeps nobody apart."""
    together = one["experiment"] == other["experiment"]
    names = [name for name in one if name in other and name not in TOLD]
    apart = [name for name in names if one[name] != other[name] and not (together and name in BUDGET)]
    same_data = "data.files" in names and one["data.files"] == other["data.files"] and one["data.files"]
    same_base = "model.sha256" in names and one["model.sha256"] == other["model.sha256"] and one["model.sha256"]
    equal = {"data.source"} if same_data else set()  # the same bytes in another place are the same
    equal |= {"model.source", "model.revision"} if same_base else set()
    return [name for name in apart if name not in equal]


def _apart(first: list[str], facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The fields in which groups differ, each once; causes before consequences."""
    found: list[str] = []
    for i, one in enumerate(first):
        for other in first[:i]:
            found += [name for name in _differing(facts[one], facts[other]) if name not in found]
    causes = [name for name in found if name.startswith(("data.", "task"))]
    hidden = {"data.files", "model.sha256", "test rows"}
    if {"data.source", "data.files"} <= set(found):
        found.remove("data.files")  # another source has other files
    if causes and "test rows" in found:
        found.remove("test rows")
    if {"model.source", "model.sha256"} <= set(found):
        found.remove("model.sha256")
    return sorted(found, key=lambda name: name in hidden)


def _sentence(name: str, first: list[str], facts: Mapping[str, Mapping[str, Any]]) -> str:
    known = [label for label in first if name in facts[label]]
    places = [facts[label]["experiment"] for label in known]
    names = [str(place) if len(set(places)) == len(places) else label for place, label in zip(places, known, strict=True)]
    values: dict[str, list[str]] = {}
    for who, label in zip(names, known, strict=True):
        values.setdefault(_text(facts[label][name]), []).append(who)
    if name in ("data.files", "model.sha256", "test rows"):
        what = {"data.files": "the data files", "model.sha256": "the base weights", "test rows": "the test rows"}[name]
        return f"These runs are not overlaid: {what} of {_listed(names)} are not the same."
    said = _listed([f"{value} in {_listed(who)}" for value, who in values.items()])
    return f"These runs are not overlaid: {name} is {said}."


def _notes(groups: Mapping[str, int], facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    notes = []
    for name in BUDGET:
        for group in sorted(set(groups.values())):
            values: dict[str, list[str]] = {}
            for label in (label for label in groups if groups[label] == group and name in facts[label]):
                values.setdefault(_text(facts[label][name]), []).append(label)
            if len(values) > 1:
                said = _listed([f"{value} for {_listed(who)}" for value, who in values.items()])
                notes.append(f"The methods were not trained equally long: {name} is {said}.")
    searched = [label for label in groups if facts[label]["search"]]
    if searched and len(searched) < len(groups):
        rest = [label for label in groups if label not in searched]
        notes.append(f"The learning rate was searched for {_listed(searched)} but not for {_listed(rest)}.")
    if started := [label for label in groups if facts[label]["init_from"]]:
        notes.append(f"Training started from an earlier adapter for {_listed(started)}; what that took is not in its time.")
    if len(devices := sorted({facts[label]["device"] for label in groups} - {None})) > 1:
        notes.append(f"The runs were made on {_listed(devices)}: times and memory do not compare.")
    return notes


def _listed(names: list[str]) -> str:
    shown = names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _text(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
