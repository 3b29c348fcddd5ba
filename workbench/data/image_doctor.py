"""The data doctor on images: broken, tiny, repeated, and of different sizes or colours. Headers of many, pixels of some."""

import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workbench.core.errors import WorkbenchError
from workbench.data import images
from workbench.data.findings import Rows, finding

HEADERS, DECODED, TRIED = 20_000, 500, 50
"""Images whose header is read, and of these as many whose pixels are decoded (`TRIED` by a plan); of more, an even sample."""
TINY = 16
"""Pixels of the shorter side below which little can be seen."""
Shape = tuple[int, int, str]
"""Width, height and colour mode."""


def examine_images(rows: Rows) -> Iterator[dict[str, Any]]:
    """Findings about the `image` part of some rows."""
    cells = rows.parts["image"]
    looked, shapes, broken = _opened(cells, DECODED)
    names = [_name(cell, i, shapes.get(i)) for i, cell in enumerate(cells)]
    if broken:
        says = f"{len(broken):,} of {len(looked):,} images cannot be read: replace or remove them."
        yield finding("problem", "unreadable_images", rows, broken, says, names)
    tiny = [i for i, (width, height, _) in shapes.items() if min(width, height) < TINY]
    if tiny:
        says = (
            f"{len(tiny):,} of {len(looked):,} images are narrower than {TINY} pixels: they are enlarged, which adds no detail."
        )
        yield finding("warning" if 2 * len(tiny) < len(shapes) else "note", "tiny_images", rows, tiny, says, names)
    yield from _repeated(rows, cells, [i for i in looked if i in shapes], names)
    yield from _mixed(rows, shapes)


def refuse_unreadable(cells: Sequence[Any]) -> None:
    """Look at the headers of many images and the pixels of some.

    Raises:
        WorkbenchError: the first one that cannot be read, by its name.
    """
    for index in _opened(cells, TRIED)[2][:1]:
        images.pixels(cells[index])


def _opened(cells: Sequence[Any], most: int) -> tuple[list[int], dict[int, Shape], list[int]]:
    """(images looked at, their shapes, those that cannot be read), `most` of them decoded."""
    looked = list(range(0, len(cells), max(1, -(-len(cells) // HEADERS))))
    shapes = {i: shape for i in looked if (shape := _shape(cells[i])) is not None}
    decoded = set(looked[:: max(1, -(-len(looked) // most))])
    huge = {i for i, (width, height, _) in shapes.items() if width * height > images.MAX_PIXELS}
    return looked, shapes, [i for i in looked if i not in shapes or i in huge or (i in decoded and not _decodes(cells[i]))]


def _mixed(rows: Rows, shapes: dict[int, Shape]) -> Iterator[dict[str, Any]]:
    sizes = Counter((width, height) for width, height, _ in shapes.values())
    if len(sizes) > 1:
        (small, large), (usual, many) = (min(sizes, key=_area), max(sizes, key=_area)), sizes.most_common(1)[0]
        other = [i for i, (width, height, _) in shapes.items() if (width, height) != usual]
        says = (
            f"images have {len(sizes):,} sizes, from {small[0]} x {small[1]} to {large[0]} x {large[1]} pixels "
            f"({many:,} have {usual[0]} x {usual[1]}): all are brought to the size the model sees, whatever their proportions."
        )
        yield finding("note", "mixed_sizes", rows, other, says)
    modes = Counter(mode for *_, mode in shapes.values())
    if len(modes) > 1:
        listed = ", ".join(f"{n:,} {mode}" for mode, n in modes.most_common())
        other = [i for i, (*_, mode) in shapes.items() if mode != modes.most_common(1)[0][0]]
        says = f"images have different colour modes ({listed}): all become RGB, and transparency is dropped."
        yield finding("note", "mixed_modes", rows, other, says)


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _repeated(rows: Rows, cells: Sequence[Any], looked: Sequence[int], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Images with the same content: in one split, across splits, under different labels."""
    keys = dict(zip(looked, images.keys([cells[i] for i in looked])))
    labels = rows.parts.get("label", [""] * len(rows))
    first: dict[str, int] = {}
    again, leaked, torn = [], [], []
    for index, key in keys.items():
        before = first.setdefault(key, index)
        if before != index:
            again.append(index)
            if rows.splits[before] != rows.splits[index]:
                leaked.append(index)
            if labels[before] != labels[index]:
                torn.append(index)
    if again:
        says = f"{len(again):,} of {len(looked):,} images repeat an earlier one byte for byte; they count more than once."
        yield finding("warning", "duplicates", rows, again, says, names)
    if leaked:
        says = f"{len(leaked):,} images stand in more than one split: figures on them flatter every method; remove them."
        yield finding("problem", "leakage", rows, leaked, says, names)
    if torn:
        says = f"{len(torn):,} images also stand with another label: decide for one."
        yield finding("warning", "contradictions", rows, torn, says, names)


def _source(cell: Any) -> Any:
    """What an image is opened from: a path, a buffer, an array or a picture."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    return io.BytesIO(cell) if isinstance(cell, bytes) else cell


def _shape(cell: Any) -> Shape | None:
    """Size and mode from the header alone; None where there is no image."""
    from PIL import Image

    source = _source(cell)
    if isinstance(source, np.ndarray):
        return (source.shape[1], source.shape[0], "L" if source.ndim == 2 or source.shape[2] == 1 else "RGB")
    if isinstance(source, Image.Image):
        return (source.width, source.height, source.mode)
    try:
        if not isinstance(source, io.BytesIO) and not Path(source).is_file():  # a pipe would block
            return None
        with Image.open(source) as opened:
            return (opened.width, opened.height, opened.mode)
    except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError):
        return None


def _decodes(cell: Any) -> bool:
    try:
        return images.pixels(cell).size > 0
    except WorkbenchError:
        return False


def _name(cell: Any, index: int, shape: Shape | None) -> str:
    """What an image is called in an example."""
    path = cell.get("path") if isinstance(cell, dict) else cell
    name = os.fspath(path) if isinstance(path, str | os.PathLike) else f"image {index}"
    return f"{Path(name).name}" + (f", {shape[0]} x {shape[1]} {shape[2]}" if shape else "")
