"""The catalogue's entries, read from the classes themselves; imports torch."""

from collections.abc import Mapping
from typing import Any

from workbench.core.types import Preset
from workbench.kernel import registry
from workbench.kernel.contract import Method


def everything() -> dict[str, list[dict[str, Any]]]:
    """{methods, modifiers, recipes, tasks, operations, analyses}, each a list of plain entries."""
    from workbench import analyses, modifiers, operations, recipes, tasks

    keys = registry.methods()
    methods = [_method(key, cls) for key, cls in keys.items()]
    methods += [_preset(name, key, keys[key]) for name, (key, _) in sorted(registry.aliases().items())]
    return {
        "methods": methods,
        "modifiers": [_part(key, cls) for key, cls in modifiers.modifiers().items()],
        "recipes": [_part(key, recipes.find(key)) for key in recipes.names()],
        "tasks": [_task(key, tasks.find(key)) for key in tasks.names()],
        "operations": operations.listing(),
        "analyses": analyses.listing(),
    }


def _method(key: str, cls: type[Method]) -> dict[str, Any]:
    text = registry.describe(cls)
    return {
        "key": key,
        "title": text["title"],
        "family": registry.family(cls),
        "kind": cls.kind,
        "engine": cls.engine,
        "paper": cls.paper.cite,
        "url": cls.paper.url,
        "paper_id": cls.paper.id,
        "mergeable": cls.mergeable(cls.Config()),
        "not_mergeable": cls.not_mergeable,
        "trainable_params_formula": text["parameters"],
        "presets": sorted(cls.presets),
        "preset_of": None,
        "formula": text["formula"],
        "text": text["text"],
        "deviates": text["deviates"],
        "default_lr": {"rate": cls.default_lr[0], "source": cls.default_lr[1]},
        "roles": list(_roles(cls)),
        "needs": sorted(registry.needs(cls, cls.tiny)),
        "excused": dict(cls.excused),
        "identity_at_init": cls.starts_as_base(cls.Config()),
        "peft_export": cls.peft.peft_type if cls.peft else getattr(cls, "peft_type", None),
        "values": {},
        "schema": cls.Config.model_json_schema(),
    }


def _roles(cls: type[Method]) -> tuple[str, ...]:
    from workbench.kernel.registry import default_roles

    return default_roles(cls, cls.Config())


def _preset(name: str, key: str, cls: type[Method]) -> dict[str, Any]:
    preset: Preset = cls.presets[name]
    paper = preset.paper or cls.paper
    rate, source = preset.default_lr or cls.default_lr
    cfg = cls.Config.model_validate(dict(preset.values))
    return {
        **_method(key, cls),
        "key": name,
        "title": preset.title.rstrip(".") or name,
        "paper": paper.cite,
        "url": paper.url,
        "paper_id": paper.id,
        "mergeable": cls.mergeable(cfg),
        "identity_at_init": cls.starts_as_base(cfg),
        "presets": [],
        "preset_of": key,
        "default_lr": {"rate": rate, "source": source},
        "values": dict(preset.values),
    }


def _part(key: str, cls: Any) -> dict[str, Any]:
    """A modifier or a recipe."""
    text = registry.describe(cls)
    paper = cls.paper
    return {
        "key": key,
        "title": text["title"],
        "formula": text["formula"],
        "text": text["text"],
        "deviates": text["deviates"],
        "paper": paper.cite if paper else None,
        "url": paper.url if paper else None,
        "paper_id": paper.id if paper else None,
        "schema": cls.Config.model_json_schema(),
    }


def _task(key: str, cls: Any) -> dict[str, Any]:
    def words(parts: Mapping[str, Any]) -> dict[str, str]:
        return {name: "required" if need in (True, "required") else "optional" for name, need in parts.items()}

    return {
        "key": key,
        "title": registry.describe(cls)["title"],
        "parts": [words(p) for p in ([cls.parts] if isinstance(cls.parts, Mapping) else cls.parts)],
        "provides": list(cls.provides),
        "metric": cls.metric,
        "greater_is_better": cls.greater_is_better,
        "has_labels": cls.has_labels,
    }
