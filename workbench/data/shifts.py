"""Shifted rows: the same rows as they might come from elsewhere - pictures with noise, blurred or inverted, mistyped text.

Labels stay. A row is shifted the same way whatever rows stand beside it, so results on different selections compare.
"""

from collections.abc import Callable, Mapping
from string import ascii_lowercase
from types import MappingProxyType
from typing import Any

import numpy as np

from workbench.core.errors import WorkbenchError
from workbench.data.images import pixels
from workbench.data.table import Table

TEXT_PARTS = ("text", "text_pair", "prompt")
SHORTEST = 3  # letters of a word that can be mistyped and still be guessed

Shift = Callable[[Any, float, np.random.Generator], Any]
"""(value, severity, draws) -> the shifted value."""


def noise(image: np.ndarray, severity: float, draw: np.random.Generator) -> np.ndarray:
    """Normal noise on every pixel (height, width, 3), its deviation `severity` of the whole range."""
    return (image + 255 * severity * draw.standard_normal(image.shape)).clip(0, 255).astype(np.uint8)


def blur(image: np.ndarray, severity: float, draw: np.random.Generator) -> np.ndarray:
    """A Gaussian blur with a deviation of a quarter of `severity` of the shorter side."""
    from scipy.ndimage import gaussian_filter

    width = severity * min(image.shape[:2]) / 4
    return gaussian_filter(image.astype(np.float32), (width, width, 0)).round().astype(np.uint8)


def inversion(image: np.ndarray, severity: float, draw: np.random.Generator) -> np.ndarray:
    """Dark for bright, whatever the severity."""
    return 255 - image


def typos(text: str, severity: float, draw: np.random.Generator) -> str:
    """One letter swapped, dropped, doubled or replaced in a share `severity` of the words."""
    return " ".join(
        _mistyped(word, draw) if draw.random() < severity and len(word) >= SHORTEST else word for word in text.split(" ")
    )


def _mistyped(word: str, draw: np.random.Generator) -> str:
    at = int(draw.integers(len(word) - 1))
    before, here, there, after = word[:at], word[at], word[at + 1], word[at + 2 :]
    other = ascii_lowercase[draw.integers(len(ascii_lowercase))]
    return before + (there + here, there, here + here + there, other + there)[draw.integers(4)] + after


IMAGES: Mapping[str, Shift] = MappingProxyType({"noise": noise, "blur": blur, "inversion": inversion})
TEXTS: Mapping[str, Shift] = MappingProxyType({"typos": typos})


def shifted(table: Table, severity: float, seed: int = 0) -> dict[str, Table]:
    """Name of a shift -> the table with every picture, or every text that is read and not answered, shifted.

    Args:
        table: rows of a split.
        severity: above 0, at most 1; what it means is each shift's own.
        seed: of the draws; they also depend on the row's id.

    Raises:
        WorkbenchError: the rows hold neither images nor plain text.
    """
    parts = [name for name in table.columns if name == "image" or name in TEXT_PARTS]
    if not parts:
        raise WorkbenchError(f"rows can be shifted where they hold an image or a text; these hold {', '.join(table.columns)}.")

    def column(part: str, shift: Shift) -> list[Any]:
        values = map(pixels, table.columns[part]) if part == "image" else table.columns[part]
        return [shift(v, severity, np.random.default_rng([seed, i])) for i, v in zip(table.ids, values, strict=True)]

    kinds = IMAGES if "image" in parts else TEXTS
    return {
        name: Table(table.ids, {**table.columns, **{part: column(part, shift) for part in parts}}, table.entries)
        for name, shift in kinds.items()
    }
