"""Finding things by walking folders: the key is the file name, the family the folder, the title the docstring's first line."""

import importlib
import inspect
import pkgutil
import re
from functools import cache
from types import ModuleType
from typing import Any

from workbench.core.errors import from_pydantic, unknown
from workbench.core.types import Placement, Preset
from workbench.kernel.contract import Composite, Method, Part, SelectPart


@cache
def modules(package: str) -> dict[str, ModuleType]:
    """File key -> module for every leaf module below `package` that has a public class or operation."""
    root = importlib.import_module(package)
    found: dict[str, ModuleType] = {}
    for info in pkgutil.walk_packages(root.__path__, f"{package}."):
        if info.ispkg or info.name.rsplit(".", 1)[1] in ("contract", "run"):
            continue
        key = info.name.rsplit(".", 1)[1]
        if key in found:
            raise ImportError(f"{info.name} and {found[key].__name__} have the same key {key!r}; keys are unique.")
        found[key] = importlib.import_module(info.name)
    return found


def final_class(module: ModuleType, base: type) -> Any:
    """The one class of `module` that is a final `base` (parts of a composite end in `Part`)."""
    own = [
        c
        for _, c in inspect.getmembers(module, inspect.isclass)
        if c.__module__ == module.__name__ and issubclass(c, base) and not c.__name__.endswith("Part")
    ]
    if len(own) != 1:
        raise ImportError(f"{module.__name__} must define exactly one {base.__name__}; it has {[c.__name__ for c in own]}.")
    return own[0]


@cache
def methods() -> dict[str, type[Method]]:
    """File key -> method class."""
    return {key: final_class(m, Method) for key, m in sorted(modules("workbench.methods").items())}


@cache
def aliases() -> dict[str, tuple[str, str]]:
    """Preset name -> (file key, preset name); preset names are unique and no file key."""
    table: dict[str, tuple[str, str]] = {}
    for key, cls in methods().items():
        for name in cls.presets:
            if name in table or name in methods():
                raise ImportError(f"the preset name {name!r} of {key} is already taken.")
            table[name] = (key, name)
    return table


def find(name: str, preset: str | None = None) -> tuple[str, type[Method], Preset]:
    """(file key, class, preset) of a method or preset name as a person writes it.

    Raises:
        WorkbenchError: unknown names, with the closest ones.
    """
    key = name
    if name in aliases():
        key, preset = aliases()[name][0], preset or name
    if key not in methods():
        raise unknown("method", name, [*methods(), *aliases()])
    cls = methods()[key]
    if preset is not None and preset not in cls.presets:
        raise unknown(f"preset of {key}", preset, cls.presets)
    return key, cls, cls.presets[preset] if preset else Preset()


def configure(name: str, values: dict[str, Any], preset: str | None = None) -> Placement:
    """The method's whole Config from a person's values over the preset's.

    Raises:
        WorkbenchError: one sentence about the first bad value.
    """
    from pydantic import ValidationError

    _, cls, chosen = find(name, preset)
    try:
        return cls.Config.model_validate({**chosen.values, **values})
    except ValidationError as error:
        raise from_pydantic(error, name, cls.Config.model_fields) from None


def describe(cls: type[Method]) -> dict[str, str]:
    """Title, formula, text, parameters and deviations, read from the module's docstring."""
    doc = inspect.getdoc(inspect.getmodule(cls)) or ""
    title, _, rest = doc.partition("\n")
    blocks = [b.strip("\n") for b in re.split(r"\n\s*\n", rest) if b.strip()]
    formula = "\n\n".join(b for b in blocks if all(line.startswith("    ") or not line.strip() for line in b.splitlines()))
    prose = [b.strip() for b in blocks if not b.startswith("    ")]

    def labelled(label: str) -> str:
        return next((" ".join(p.removeprefix(label).split()) for p in prose if p.startswith(label)), "")

    text = [" ".join(p.split()) for p in prose if not p.startswith(("Parameters per", "Deviates from"))]
    return {
        "title": title.rstrip("."),
        "formula": inspect.cleandoc("\n" + formula),
        "text": "\n\n".join(text),
        "parameters": labelled("Parameters per site:") or labelled("Parameters per model:"),
        "deviates": labelled("Deviates from the paper:"),
    }


def family(cls: type[Method]) -> str:
    """The folder a method lives in."""
    return cls.__module__.split(".")[2]


def part_classes(cls: type[Method], cfg: Any) -> list[tuple[type[Part], tuple[str, ...]]]:
    """(part class, default roles) of a native method; empty for a select part."""
    if issubclass(cls, Composite):
        return [(slot.part, slot.roles) for slot in cls.parts(cfg)]
    if issubclass(cls, SelectPart):
        return []
    return [(cls, cls.roles)] if issubclass(cls, Part) else []


def needs(cls: type[Method], cfg: Any) -> set[str]:
    """Context keys that a method or one of its parts must find in every forward pass."""
    return {name for one in (cls, *(part for part, _ in part_classes(cls, cfg))) for name in one.needs}


def default_roles(cls: type[Method], cfg: Any) -> tuple[str, ...]:
    """The roles a method takes when its placement names none."""
    roles = [r for _, some in part_classes(cls, cfg) for r in some] or list(cls.roles)
    return tuple(dict.fromkeys(roles))


def keys() -> list[str]:
    """Every name a person may write: file keys, then presets."""
    return [*methods(), *aliases()]
