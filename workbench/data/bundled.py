"""Data that needs no download: docstrings of the installed standard library by topic or as questions, and scanned digits."""

import hashlib
import json
import os
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.core.errors import WorkbenchError, unknown
from workbench.core.paths import cache
from workbench.models import stdlib

LONGEST, SHORTEST = 500, 20  # characters of a docstring kept, and below which it says too little
WORDS, CHOICES = range(4, 26), 4  # words of a docstring that is asked about, and the names it is asked among
TOPICS: dict[str, str] = {
    "concurrency": "asyncio multiprocessing concurrent threading _threading_local queue sched selectors subprocess "
    "contextvars signal pty",
    "data structures": "collections _collections_abc enum functools contextlib dataclasses weakref _weakrefset operator copy "
    "copyreg heapq bisect graphlib types abc _py_abc ctypes struct reprlib uuid array pickle pickletools "
    "itertools string _markupbase xdrlib",
    "files and archives": "tarfile zipfile pathlib shutil os tempfile ntpath posixpath genericpath glob gzip bz2 lzma "
    "_compression _pyio fileinput filecmp fnmatch stat zipapp shelve dbm sqlite3 io mmap nturl2path netrc "
    "plistlib wave aifc sunau chunk",
    "graphical interfaces": "tkinter turtle curses",
    "language and imports": "importlib inspect ast typing symtable dis pyclbr pkgutil modulefinder zipimport codeop code "
    "compileall py_compile tokenize token runpy linecache opcode keyword imp site sysconfig __future__ "
    "venv ensurepip _sitebuiltins rlcompleter",
    "mail and markup": "email mailbox mailcap mimetypes quopri base64 html xml uu binhex",
    "networking": "http urllib imaplib smtplib smtpd ftplib poplib nntplib telnetlib socket socketserver ssl wsgiref "
    "xmlrpc webbrowser ipaddress cgi cgitb asyncore asynchat hashlib hmac secrets",
    "numbers and dates": "_pydecimal decimal numbers statistics fractions random colorsys datetime _pydatetime calendar "
    "_strptime zoneinfo",
    "testing and debugging": "unittest doctest pdb bdb trace traceback tracemalloc timeit profile cProfile pstats pydoc logging "
    "warnings cmd",
    "text and settings": "difflib re sre_parse sre_compile textwrap pprint json csv configparser argparse optparse getopt "
    "shlex codecs locale gettext stringprep tomllib platform getpass pipes",
}
"""Label -> top-level modules; a module that this Python lacks has no rows."""


def _topic_of() -> dict[str, str]:
    return {module: topic for topic, modules in TOPICS.items() for module in modules.split()}


def _without_name(text: str, module: str) -> str:
    """The docstring on one line, cut at a word, without the module's own name (it would give the topic away)."""
    names = "|".join(re.escape(part) for part in sorted({module.split(".")[0], *module.split(".")}, key=len, reverse=True))
    flat = " ".join(re.sub(rf"(?<!\w)(?:{names})(?!\w)", " ", text).split())
    return flat if len(flat) <= LONGEST else flat[:LONGEST].rsplit(" ", 1)[0]


def _docstring_rows() -> list[dict[str, str]]:
    topic_of, seen, rows = _topic_of(), set(), []
    for source in stdlib.sources(only=topic_of):
        topic = topic_of[source.module.split(".")[0]]
        for text in stdlib.docstrings(source):
            short = _without_name(text, source.module)
            key = short.casefold()
            if len(short) >= SHORTEST and len(short.split()) >= 3 and key not in seen:
                seen.add(key)
                rows.append({"text": short, "label": topic, "module": source.module})
    return rows


def _choice_rows() -> list[dict[str, Any]]:
    """Each function whose docstring begins with a short sentence that does not name it, and three others, drawn from seed 0."""
    found: dict[str, tuple[str, str, str]] = {}
    for source in stdlib.sources(only=_topic_of()):
        for name, text in stdlib.functions(source):
            said = " ".join(text.split("\n\n")[0].split())
            prose = said[:1].isupper() and said.endswith(".") and len(said.split()) in WORDS  # a signature is code
            if prose and len(name) >= 3 and name == name.strip("_") and name.casefold() not in said.casefold():
                found.setdefault(said.casefold(), (said, name, source.module))
    names, rng = sorted({name for _, name, _ in found.values()}), random.Random(0)
    rows = []
    for said, name, module in found.values():
        others = [other for other in rng.sample(names, CHOICES + 8) if other != name and other not in said.casefold()]
        choices = sorted([name, *others[: CHOICES - 1]], key=lambda _: rng.random())
        rows.append({"text": f'"""{said}"""\ndef', "choices": choices, "answer": name, "module": module})
    return rows


def cached(name: str, build: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows from `<cache>/data/<name>.jsonl`, built once and put there whole."""
    path = cache() / "data" / f"{name}.jsonl"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in build()), encoding="utf-8")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def docstring_table() -> dict[str, list[Any]]:
    """About 6,500 docstrings of ten topics: columns `text`, `label`, `module`."""
    return _from_sources("docstrings", _docstring_rows, ("text", "label", "module"))


def choice_table() -> dict[str, list[Any]]:
    """About 2,500 docstrings and the names of four functions, of which one has it: `text`, `choices`, `answer`, `module`."""
    return _from_sources("choices", _choice_rows, ("text", "choices", "answer", "module"))


def _from_sources(name: str, build: Callable[[], list[dict[str, Any]]], columns: tuple[str, ...]) -> dict[str, list[Any]]:
    """A table made from the installed standard library, kept for this Python and this code."""
    recipe = hashlib.sha256(
        ("".join(map(Path.read_text, (Path(__file__), Path(stdlib.__file__)))) + sys.version).encode()
    ).hexdigest()[:12]
    rows = cached(f"{name}-{recipe}", build)
    if len(rows) < 1000:
        raise WorkbenchError(
            f"bundled/{name} needs the standard library's .py files, which this Python lacks; use a Python with sources."
        )
    return {column: [row[column] for row in rows] for column in columns}


def digit_table() -> dict[str, list[Any]]:
    """1,797 handwritten digits: columns `image` (uint8 arrays 8 x 8, ink bright) and `label`."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images * (255 / 16)).round().astype("uint8")
    return {"image": list(images), "label": [str(label) for label in digits.target]}


TABLES: dict[str, Callable[[], dict[str, list[Any]]]] = {
    "docstrings": docstring_table,
    "choices": choice_table,
    "digits": digit_table,
}


def table(source: str) -> dict[str, list[Any]]:
    """Columns of `bundled/<name>`."""
    name = source.removeprefix("bundled/")
    if name not in TABLES:
        raise unknown("bundled data set", name, TABLES)
    return TABLES[name]()
