"""Text and pictures that no bundled base was pretrained on and no bundled data set holds: to see what a training made worse."""

import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.core.errors import WorkbenchError, unknown
from workbench.data.bundled import cached
from workbench.models import stdlib

WORDS = 8  # fewest words of a comment that says something
COMMENT = re.compile(r"(?:^[ \t]*# .*\n)+", re.MULTILINE)


def _documents() -> list[dict[str, str]]:
    """The held-out modules of the standard library without any docstring."""
    files = list(stdlib.sources())
    forbidden = stdlib.docstring_lines(files)
    return [{"text": stdlib.code_only(f, forbidden)} for f in files if stdlib.is_held_out(f.module)]


def _read() -> list[str]:
    recipe = hashlib.sha256(("".join(map(Path.read_text, (Path(__file__), Path(stdlib.__file__)))) + sys.version).encode())
    rows = [row["text"] for row in cached(f"held-out-{recipe.hexdigest()[:12]}", _documents)]
    if not rows:
        raise WorkbenchError(
            "held-out text needs the standard library's .py files, which this Python lacks; use one with sources."
        )
    return rows


def code(characters: int) -> list[str]:
    """Source code and comments of the held-out modules, cut at line ends into pieces of at least `characters`."""
    pieces: list[str] = []
    for document in _read():
        piece = ""
        for line in document.splitlines(keepends=True):
            piece += line
            if len(piece) >= characters:
                pieces.append(piece)
                piece = ""
    return pieces


def prose(characters: int) -> list[str]:
    """The comments of the held-out modules, one text each, at most `characters` long."""
    found = []
    for document in _read():
        for match in COMMENT.finditer(document):
            text = " ".join(line.strip().lstrip("# ").strip() for line in match[0].splitlines())
            if len(text.split()) >= WORDS:
                found.append(text[:characters])
    return list(dict.fromkeys(found))


def pictures(count: int) -> list[Any]:
    """Drawn pictures (letters, invented characters, shapes; never a digit) that the bundled ViT was only judged on."""
    from workbench.models import glyphs

    return list(glyphs.pictures(count, seed=0)[0])


TEXTS: dict[str, Callable[[int], list[str]]] = {"code": code, "prose": prose}


def texts(kind: str, count: int, characters: int) -> list[str]:
    """At most `count` held-out texts, evenly spread over what there is, in a fixed order.

    Args:
        kind: `code` (what the bundled language model was pretrained on) or `prose` (English sentences).
        count: how many.
        characters: length of a piece of code, longest prose.
    """
    if kind not in TEXTS:
        raise unknown("kind of held-out text", kind, TEXTS)
    found = TEXTS[kind](characters)
    count = min(count, len(found))
    return [found[i * len(found) // count] for i in range(count)]
