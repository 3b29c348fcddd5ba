"""What the model sees of the data: tokens or pixels, what the loss counts, and what `max_length` cuts."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from workbench.core.data_spec import Data, named, short_form
from workbench.core.errors import WorkbenchError, from_pydantic
from workbench.core.spec import ModelSpec
from workbench.core.types import Config
from workbench.services import grounds

if TYPE_CHECKING:
    from workbench.tasks import Task
    from workbench.tasks.contract import Seen

SAMPLE = 2000
"""Training rows that are tokenised: all, or an even sample."""
RARE = 0.01
"""Share of cut rows below which nothing is suggested."""
AROUND, MOST = 60, 2000
"""Cut pieces shown beside the kept ones, and pieces shown of one row at most."""
UNKNOWN = 0.2
"""Share of unknown pieces from which the text is said to be foreign to the model."""
STEP = 8
"""Suggested lengths are multiples of it."""


class _Asked(Config):
    """The parts of a spec that decide what the model sees."""

    data: Data
    model: ModelSpec


def asked(data: Any, model: Any) -> _Asked:
    """Data and model in any form that a spec allows.

    Raises:
        WorkbenchError: one sentence about the first bad value.
    """
    try:
        model = {"source": model} if isinstance(model, str) else model
        found = _Asked.model_validate({"data": short_form(data), "model": model})
        return found.model_copy(update={"data": named(found.data)}) if isinstance(found.data, tuple) else found
    except ValidationError as error:
        raise from_pydantic(error, "spec", _Asked.model_fields) from None
    except ValueError as error:
        raise WorkbenchError(f"data: {error}.") from None


def tokens(data: Any, task: str, model: Any, max_length: int, rows: int = 5) -> dict[str, Any]:
    """Exactly what the model sees of some training rows; reads the tokenizer, no weights. For the engine.

    Args:
        data: the spec's `data`: a source, a mapping, or a list of them.
        task: key of the task.
        model: the spec's `model`.
        max_length: tokens kept of each example.
        rows: rows to show, from the shortest to the longest.

    Returns:
        {rows: [{id, split, pieces: [{text, token_id, special, loss, cut}], length, truncated, hidden}], truncation, suggestion,
        unknown, limit, scores, image}. `length` counts the tokens before anything is cut, `hidden` the pieces not listed.
        `truncation` is {share, n, of, longest, p50, p95, p99, at_max_length} over n of the `of` training rows, None where the
        model reads no tokens; `suggestion` is {max_length, share, sentence}, None where less than 1 % of the rows is cut;
        `unknown` is {share, sentence} of the pieces that the vocabulary lacks, None where they are few; `limit` the positions the
        model has; `scores` says whether the loss counts `tokens` or the `label`; `image` what is done to every image.

    Raises:
        WorkbenchError: the task, the data or the model cannot be used.
    """
    from workbench import tasks
    from workbench.data import load_table
    from workbench.models.bundled import resolve_model

    cls, given = tasks.find(task), asked(data, model)
    if not 4 <= max_length <= 1_048_576:
        raise WorkbenchError(f"max_length must be a whole number from 4 to 1,048,576; got {max_length}.")
    folder = resolve_model(given.model.source, given.model.revision)
    splits = load_table(given.data, cls.parts)
    made = _task(cls, folder, splits.labels, max_length, given.model.source)
    count = len(splits.train)
    seen = made.seen(splits.train.select(range(0, count, math.ceil(count / SAMPLE))))
    lengths = sorted(len(one.tokens) for one in seen)
    limit = _limit(made) if seen else None
    return {
        "rows": [_row(made, one) for one in _spread(seen, rows)],
        "truncation": _truncation(seen, lengths, count, max_length) if seen else None,
        "suggestion": _suggestion(lengths, sum(not all(one.kept) for one in seen), max_length, limit) if seen else None,
        "unknown": _unknown(made, seen) if seen else None,
        "limit": limit,
        "scores": "label" if made.has_labels else "tokens",
        "image": _image(made.sees()),
    }


def _task(cls: "type[Task]", folder: Any, labels: Sequence[str], max_length: int, source: str) -> "Task":
    try:
        return cls(folder, labels, max_length)
    except grounds.UNFIT as error:
        raise WorkbenchError(f"the base model {source} cannot read this data: {grounds.reason(error)}.") from None


def _spread(seen: "Sequence[Seen]", rows: int) -> "list[Seen]":
    """Rows at even ranks of the length, from the shortest to the longest."""
    ordered = sorted(seen, key=lambda one: len(one.tokens))
    if rows < 2 or len(ordered) <= rows:
        return ordered[-rows:] if rows else []
    return [ordered[round(i * (len(ordered) - 1) / (rows - 1))] for i in range(rows)]


def _row(task: "Task", one: "Seen") -> dict[str, Any]:
    kept = [i for i, keep in enumerate(one.kept) if keep]
    near = {j for i in (kept[0], kept[-1]) for j in range(i - AROUND, i + AROUND + 1)} if kept else set()
    shown = [i for i, keep in enumerate(one.kept) if keep or i in near or len(one.tokens) <= 2 * AROUND][:MOST]
    tokenizer = task.tokenizer  # type: ignore[attr-defined]
    special = set(tokenizer.all_special_ids)
    pieces = [
        {
            "text": _spelt(tokenizer, one.tokens[i]),
            "token_id": one.tokens[i],
            "special": one.tokens[i] in special,
            "loss": one.scored[i] and one.kept[i],
            "cut": not one.kept[i],
        }
        for i in shown
    ]
    facts = {"length": len(one.tokens), "truncated": len(kept) < len(one.tokens), "hidden": len(one.tokens) - len(shown)}
    return {"id": one.id, "split": "train", "pieces": pieces, **facts}


def _spelt(tokenizer: Any, token: int) -> str:
    """A token as text: its blank as a blank; part of a character as the tokenizer's own name for it."""
    name = tokenizer.convert_ids_to_tokens(token)
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    if not text or "\ufffd" in text:
        return str(name)
    return f" {text}" if str(name).startswith("\u2581") and not text.startswith(" ") else text


def _limit(task: "Task") -> int | None:
    """The positions that tokenizer and model allow, as far as they say so."""
    config = json.loads((task.folder / "config.json").read_text(encoding="utf-8"))
    said = [config.get("max_position_embeddings"), config.get("n_positions"), task.tokenizer.model_max_length]  # type: ignore[attr-defined]
    known = [int(n) for n in said if isinstance(n, int) and 0 < n < 10**9]
    return min(known, default=None)


def _quantile(ordered: Sequence[int], share: float) -> int:
    """The smallest length that at least `share` of the rows do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _truncation(seen: "Sequence[Seen]", lengths: Sequence[int], count: int, max_length: int) -> dict[str, Any]:
    cut = sum(not all(one.kept) for one in seen)
    quantiles = {f"p{p}": _quantile(lengths, p / 100) for p in (50, 95, 99)}
    sizes = {"n": len(seen), "of": count, "longest": lengths[-1]}
    return {"share": cut / len(seen), **sizes, **quantiles, "at_max_length": max_length}


def _suggestion(lengths: Sequence[int], cut: int, max_length: int, limit: int | None) -> dict[str, Any] | None:
    """The smallest multiple of 8 that cuts less than 1 % of the rows, or what the model can take at most."""
    share = cut / len(lengths)
    if share < RARE:
        return None
    fits = math.ceil(_quantile(lengths, 1 - RARE + 1e-9) / STEP) * STEP
    chosen = min(fits, limit) if limit else fits
    if chosen <= max_length:
        return None
    left = sum(n > chosen for n in lengths) / len(lengths)
    end = ", the most this model takes" if chosen == limit and left >= RARE else ""
    says = (
        f"max_length {max_length:,} cuts {100 * share:.1f} % of the training rows; {chosen:,} would cut {100 * left:.1f} %{end}."
    )
    return {"max_length": chosen, "share": left, "sentence": says}


def _unknown(task: "Task", seen: "Sequence[Seen]") -> dict[str, Any] | None:
    """How much of the text the vocabulary lacks: every such piece looks alike to the model."""
    tokenizer = task.tokenizer  # type: ignore[attr-defined]
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    pieces = [token for one in seen for token in one.tokens if token not in special]
    share = pieces.count(tokenizer.unk_token_id) / max(1, len(pieces))
    says = f"{100 * share:.1f} % of the text is unknown to this model, and all of that looks alike to it: choose another model."
    return {"share": share, "sentence": says} if share >= UNKNOWN else None


def _image(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    if not facts:
        return None
    colours = "grey" if facts["channels"] == 1 else "RGB"
    mean, std = (", ".join(f"{v:g}" for v in facts[name]) for name in ("mean", "std"))
    says = (
        f"every image is resized to {facts['width']} x {facts['height']} {colours} pixels, scaled by {facts['scale']:.6g}, "
        f"less {mean}, divided by {std}."
    )
    return {**facts, "sentence": says}
