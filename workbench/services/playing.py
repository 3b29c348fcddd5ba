"""The playground: which adapters can stand side by side, and asking the engine for their answers to one input."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from workbench.core.errors import WorkbenchError, from_pydantic
from workbench.core.types import Config
from workbench.jobs import engine, wire
from workbench.services import adapters

MOST = 4
"""Adapters side by side, the base not counted."""
FIRST_LOAD = 600.0  # seconds that a large base may take
KINDS = {"text_classification": "text", "image_classification": "image", "causal_lm": "prompt"}
"""Task -> what one types in."""


class Settings(Config):
    """How a language model answers."""

    max_new_tokens: int = Field(64, ge=1, le=512, description="Longest answer in tokens.")
    greedy: bool = Field(True, description="The likeliest token each time; else drawn at temperature 1 from seed 0.")


def groups(known: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Adapters by (base model, task), those that can be played with, in the order given."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in known:
        if one["base"] and one["task"] in KINDS:
            found.setdefault((one["base"], one["task"]), []).append(one)
    return found


def kind(chosen: Sequence[Mapping[str, Any]]) -> str:
    """What is typed in for these adapters: `text`, `pair`, `prompt`, `messages` or `image`."""
    metas = [wire.read_json(Path(one["folder"]) / adapters.META) or {} for one in chosen]
    columns = {part for meta in metas for part in meta.get("columns") or {}}
    usual = KINDS[chosen[0]["task"]]
    return "pair" if "text_pair" in columns else "messages" if "messages" in columns else usual


def ask_play(references: Sequence[str], inputs: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`play_request` without importing torch here: the engine answers, and keeps the base for the next question."""
    _checked(references, settings)
    request = {"references": list(references), "inputs": dict(inputs), "settings": dict(settings)}
    return engine.ask("play", request, timeout=FIRST_LOAD)


def play_request(references: Sequence[str], inputs: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """One input answered by the base and by up to four adapters, for the engine.

    Args:
        references: runs, imported or combined adapters, as commands name them; all on one base and one task.
        inputs: {text, text_pair?}, {prompt}, {messages} or {image: path or PNG data address}.
        settings: fields of `Settings`; language models only.

    Returns:
        See `evaluate.playing.play`.

    Raises:
        WorkbenchError: nothing of that name, too many, of different bases or tasks, or an input that does not fit.
    """
    given = _checked(references, settings)
    from workbench.evaluate import playing

    folders = {one: adapters.adapter_folder(one) for one in references}
    return playing.play(folders, inputs, given.max_new_tokens, given.greedy)


def _checked(references: Sequence[str], settings: Mapping[str, Any]) -> Settings:
    if not 1 <= len(references) <= MOST or len(set(references)) < len(references):
        got = f"{len(references)}, some of them twice" if len(set(references)) < len(references) else str(len(references))
        raise WorkbenchError(f"the playground takes 1 to {MOST} different adapters; got {got}.")
    try:
        return Settings.model_validate(dict(settings))
    except ValidationError as error:
        raise from_pydantic(error, "settings", Settings.model_fields) from None


def ask_examples(reference: str) -> list[dict[str, Any]]:
    """`examples_request` without importing torch here: the engine answers."""
    return engine.ask("play_examples", {"reference": reference})


def examples_request(reference: str) -> list[dict[str, Any]]:
    """Test rows to try an adapter on, for the engine: see `evaluate.playing.examples`."""
    from workbench.evaluate import playing

    return playing.examples(adapters.adapter_folder(reference))
