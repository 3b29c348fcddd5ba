"""Text of others made harmless for the place that shows it: a line, Markdown, a spreadsheet's cell, a page."""

import re

LONGEST = 600
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_FORMULA = re.compile(r"[\s\u200b-\u200f\ufeff]*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def line(text: str) -> str:
    """One line that is safe to print and to store: no control or direction characters, no passwords of addresses."""
    plain = hidden("".join(c if c.isprintable() else "?" for c in text))
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 200]} ... {plain[-190:]}"


def hidden(text: str) -> str:
    """Text without the user and password of an address in it."""
    return _CREDENTIALS.sub("***", text)


def upright(text: str) -> str:
    """Text without characters that turn the direction of what follows, or steer a terminal."""
    return "".join(c if c in "\n\t" or (c >= " " and c != "\x7f") else "?" for c in _TURNING.sub("?", text))


def unmarked(text: str) -> str:
    """Text in which Markdown has nothing to find."""
    return "".join("\\" + c if c in "\\`*_{}[]<>#$|~:" else c for c in text)


def named(text: str) -> str:
    """A name of others in Markdown: one line, never read as markup."""
    return unmarked(line(text))


def coded(text: str) -> str:
    """A value of others as code in Markdown."""
    return f"`{line(text).replace('`', chr(39))}`"


def cell(value: object) -> object:
    """A value for a CSV file; what a spreadsheet would run as a formula is quoted."""
    runs = isinstance(value, str) and (_FORMULA.match(value) or value[:1] in "\t\r") and not _NUMBER.fullmatch(value)
    return f"'{value}" if runs else value
