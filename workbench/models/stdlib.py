"""The installed standard library as text: its source files, their docstrings, and the source with the docstrings taken out."""

import ast
import hashlib
import inspect
import sysconfig
import tokenize
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
    | {"pydoc_data", "encodings", "lib2to3", "distutils", "turtledemo"}
)
"""Foreign packages, tests, tables, and packages that newer Pythons no longer have."""

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One file of the standard library: dotted `module` name, its `text` and its syntax tree."""

    module: str
    text: str
    tree: ast.Module


def sources(root: Path | None = None, only: Container[str] | None = None) -> Iterator[Source]:
    """Every readable module in a fixed order; parsed, never imported.

    Args:
        root: the folder to read; by default the running Python's standard library.
        only: top-level modules to read; None = all.
    """
    root = root or Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).parts):
        parts = path.relative_to(root).with_suffix("").parts
        if LEFT_OUT.intersection(parts) or parts[0].startswith("config-"):
            continue
        if only is not None and parts[0] not in only:
            continue
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        try:
            with tokenize.open(path) as file:
                text = file.read()
            yield Source(module, text, ast.parse(text))
        except (SyntaxError, UnicodeDecodeError, OSError):
            continue  # a template or a file for another interpreter: no Python text to take


def _strings(node: ast.AST) -> Iterator[ast.Expr]:
    """The docstring statements at and below `node`; only statements are visited, for speed."""
    if isinstance(node, _Documented) and ast.get_docstring(node, clean=False) is not None:
        yield node.body[0]
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, name, ()):
            yield from _strings(child)


def is_held_out(module: str) -> bool:
    """Whether a module (every 40th, by a hash of its name) is kept out of the bundled language model's pretraining."""
    return hashlib.sha256(module.encode()).digest()[0] % 40 == 0


def docstrings(source: Source) -> list[str]:
    """The cleaned docstrings of a module, its classes and its functions, in the order of the file."""
    nodes = sorted(_strings(source.tree), key=lambda node: (node.lineno, node.col_offset))
    return [inspect.cleandoc(node.value.value) for node in nodes]


def functions(source: Source) -> list[tuple[str, str]]:
    """(name, cleaned docstring) of a module's functions and methods that have one, in the order of the file."""
    nodes = [n for n in ast.walk(source.tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    told = ((node.name, ast.get_docstring(node)) for node in sorted(nodes, key=lambda n: (n.lineno, n.col_offset)))
    return [(name, text) for name, text in told if text]


def plain(line: str) -> str:
    """A line reduced to its words, so that the same sentence is found again inside a comment or a string."""
    return " ".join(line.strip().strip("#'\"(),").split()).casefold()


def docstring_lines(files: list[Source]) -> frozenset[str]:
    """Every docstring line of at least four words, reduced by `plain`."""
    lines = (plain(line) for source in files for text in docstrings(source) for line in text.splitlines())
    return frozenset(line for line in lines if len(line.split()) >= 4)


def code_only(source: Source, forbidden: frozenset[str]) -> str:
    """The module's code and comments without any docstring, nor any other line that repeats one.

    Args:
        source: the module.
        forbidden: result of `docstring_lines` over all modules.
    """
    dropped: set[int] = set()
    for node in _strings(source.tree):
        dropped.update(range(node.lineno, node.end_lineno + 1))
    lines = [line for number, line in enumerate(source.text.splitlines(), 1) if number not in dropped]
    kept, blank = [], True
    for line in (line.rstrip() for line in lines if plain(line) not in forbidden):
        if line or not blank:
            kept.append(line)
        blank = not line
    return "\n".join(kept) + "\n"
