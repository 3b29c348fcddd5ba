"""Training procedures beyond the standard one, found by walking the folder."""

from functools import cache
from typing import Any

from pydantic import ValidationError

from workbench.core.errors import from_pydantic, unknown
from workbench.recipes.contract import Models, Phase, Recipe

__all__ = ["Models", "Phase", "Recipe", "configure", "find", "names"]


@cache
def _all() -> dict[str, type[Recipe]]:
    from workbench.kernel.registry import final_class, modules

    return {key: final_class(module, Recipe) for key, module in sorted(modules("workbench.recipes").items())}


def names() -> list[str]:
    """Keys of all recipes."""
    return list(_all())


def find(name: str) -> type[Recipe]:
    """The recipe class called `name`; unknown names get the closest ones."""
    if name not in _all():
        raise unknown("recipe", name, _all())
    return _all()[name]


def configure(entry: dict[str, Any] | None) -> tuple[type[Recipe], Any]:
    """(class, Config) of a `recipe:` entry; the standard procedure when there is none.

    Raises:
        WorkbenchError: unknown recipe or a bad value.
    """
    entry = entry or {"recipe": "standard"}
    cls = find(entry["recipe"])
    try:
        return cls, cls.Config.model_validate({k: v for k, v in entry.items() if k != "recipe"})
    except ValidationError as error:
        raise from_pydantic(error, entry["recipe"], cls.Config.model_fields) from None
