"""YAML for people we do not know: YAML 1.2 scalars, no aliases, no duplicate keys, bounded depth and size."""

import re
from typing import Any

import yaml

from workbench.core.errors import WorkbenchError

MAX_BYTES, MAX_DEPTH, MAX_DIGITS = 1_000_000, 20, 300


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 scalars (1e-3 is a number, `no` a string, 12:30 a string)."""

    yaml_implicit_resolvers: dict[str, list] = {}
    depth = 0

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            line = self.peek_event().start_mark.line + 1
            raise WorkbenchError(f"YAML aliases (*name) are not allowed; line {line} has one: write the value out.")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise WorkbenchError(f"YAML must be nested at most {MAX_DEPTH} deep; flatten it.")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node, deep=False):
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool) or key in seen:
                problem = "appears twice" if isinstance(key, str | int | float | bool) else "is not a plain word"
                raise WorkbenchError(f"YAML key {key!r} on line {key_node.start_mark.line + 1} {problem}; keep one.")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _tagged(loader: _Loader, node: yaml.Node) -> None:
    line = node.start_mark.line + 1
    raise WorkbenchError(f"YAML tags (!name) are not allowed; line {line} has {node.tag[:60]!r}: write a plain value.")


_INT, _FLOAT = re.compile(r"[-+]?[0-9]+"), re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    if len(node.value) > MAX_DIGITS:
        raise WorkbenchError(f"a number in YAML must have at most {MAX_DIGITS} digits; line {node.start_mark.line + 1} has more.")
    return int(node.value) if _INT.fullmatch(node.value) else float(node.value)


for _tag, _pattern, _first in (
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), "tTfF"),
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("int", re.compile(rf"{_INT.pattern}$"), "-+0123456789"),
    ("float", re.compile(rf"(?:{_FLOAT.pattern}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"), "-+0123456789."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern.pattern})$"), list(_first))
_Loader.add_constructor(None, _tagged)  # type: ignore[arg-type]  # every tag that nothing else constructs
_Loader.add_constructor("tag:yaml.org,2002:int", _number)
_Loader.add_constructor(
    "tag:yaml.org,2002:float",
    lambda loader, node: (
        float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if node.value.lower().endswith(("inf", "nan"))
        else _number(loader, node)
    ),
)


def loads(data: bytes | str, what: str = "the spec") -> dict:
    """Parse one YAML mapping.

    Args:
        data: UTF-8 bytes or text.
        what: how to name the document in an error.

    Raises:
        WorkbenchError: one sentence for anything that is not a small, plain UTF-8 YAML mapping.
    """
    raw = data.encode() if isinstance(data, str) else data
    if len(raw) > MAX_BYTES:
        raise WorkbenchError(f"{what} must be at most {MAX_BYTES // 1_000_000} MB of YAML; got {len(raw):,} bytes.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WorkbenchError(f"{what} must be UTF-8 text; byte {error.start} is not (save it as UTF-8).") from None
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        told = [getattr(error, name, None) for name in ("context", "problem")]
        reason = " ".join((", ".join(filter(None, told)) or str(error)).split()).rstrip(".")
        raise WorkbenchError(f"{what} must be valid YAML; it fails{where}: {reason}.") from None
    except RecursionError:
        raise WorkbenchError(f"YAML must be nested at most {MAX_DEPTH} deep; flatten it.") from None
    if not isinstance(value, dict):
        raise WorkbenchError(f"{what} must be a YAML mapping (key: value lines); got {_kind(value)}.")
    return value


def _kind(value: Any) -> str:
    names = {type(None): "nothing", list: "a list", str: "a text"}
    return names.get(type(value), type(value).__name__)


def dumps(value: dict) -> str:
    """YAML text of a plain value, keys in their given order; reads back equal with `loads`."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers  # so that the text "1e-3" is quoted and stays text

    def ignore_aliases(self, data):
        return True


def _represent_float(dumper: _Dumper, value: float) -> yaml.ScalarNode:
    text = {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(repr(value), repr(value))
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


_Dumper.add_representer(float, _represent_float)
