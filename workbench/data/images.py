"""Folders of images, one sub-folder per class, and reading one image without trusting it."""

import hashlib
import io
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from workbench.core.errors import WorkbenchError
from workbench.data import files

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))
SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test", "testing")}
MAX_PIXELS = 50_000_000


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise WorkbenchError(f"the image folder {folder} must be readable; it fails with {error.strerror or error}.") from None


def parts(folder: Path) -> dict[str, Path]:
    """Split name -> sub-folder, where the folder has a `train` folder; else {"train": the folder itself}."""
    by_name = {p.name.casefold(): p for p in _folders(folder)}
    found = {name: by_name[alias] for name, aliases in SPLITS.items() for alias in aliases[::-1] if alias in by_name}
    return found if "train" in found else {"train": folder}


def listing(folder: Path) -> dict[str, list[Any]]:
    """Columns `image` (paths) and `label` (sub-folder names) in the order of the names.

    Raises:
        WorkbenchError: no class sub-folders, or one without any image.
    """
    columns: dict[str, list[Any]] = {"image": [], "label": []}
    for group in _folders(folder):
        images = [p for p in sorted(group.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file()]
        if not images:
            raise WorkbenchError(f"every class folder must hold images; {group} has none: remove it or add images.")
        columns["image"] += images
        columns["label"] += [group.name] * len(images)
    if not columns["image"]:
        raise WorkbenchError(f"{folder} must hold one sub-folder of images per class; it has none: sort them into folders.")
    return columns


def folder_sha256(folder: Path) -> str:
    """One hash over the sorted relative names and the contents of all images below `folder`."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
        total.update(str(path.relative_to(folder)).encode("utf-8", "surrogateescape") + b"\0" + bytes.fromhex(files.sha256(path)))
    return total.hexdigest()


def pixels(image: Any) -> np.ndarray:
    """One image of a Table as numbers.

    Args:
        image: a path, encoded bytes, {"bytes": ..., "path": ...}, an array (height, width[, channels]) or a PIL image.

    Returns:
        uint8 array (height, width, 3).

    Raises:
        WorkbenchError: not an image, cut off, or more than 50 million pixels.
    """
    if isinstance(image, np.ndarray):
        grey = image if image.ndim == 3 else image[..., None]
        return np.ascontiguousarray(np.broadcast_to(grey, (*grey.shape[:2], 3)), dtype=np.uint8)
    name, source = "an image", image
    if isinstance(image, dict):
        name, source = str(image.get("path") or name), image.get("bytes") or image.get("path")
    if isinstance(source, str | os.PathLike):
        name = str(source)
        source = files.read(Path(source), "an image")
    return _decoded(source, name)


def _decoded(source: Any, name: str) -> np.ndarray:
    """Bytes or a PIL image to RGB, size checked before anything is unpacked."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    too_big = f"an image must have at most {MAX_PIXELS // 10**6} million pixels; {name} has more: shrink it."
    try:
        opened = Image.open(io.BytesIO(source)) if isinstance(source, bytes) else source
        if not isinstance(opened, Image.Image):
            raise WorkbenchError(f"an image must be a file, bytes or an array; got {type(source).__name__}.")
        if opened.width * opened.height > MAX_PIXELS:
            raise WorkbenchError(too_big)
        return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    except Image.DecompressionBombError:
        raise WorkbenchError(too_big) from None
    except UnidentifiedImageError:
        raise WorkbenchError(f"{name} must be a whole image; no image format begins like it: replace or remove it.") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        reason = f"it cannot be read ({str(error)[:100]})"
        raise WorkbenchError(f"{name} must be a whole image; {reason}: replace or remove it.") from None


def keys(images: list[Any]) -> list[str]:
    """Equal text for equal images. Files are read only when another has the same size."""
    sizes: dict[int, list[int]] = defaultdict(list)
    found = [""] * len(images)
    for index, image in enumerate(images):
        if isinstance(image, str | os.PathLike):
            sizes[files.regular(Path(image), "an image").st_size].append(index)
        else:
            content = image["bytes"] if isinstance(image, dict) and image.get("bytes") else pixels(image).tobytes()
            found[index] = hashlib.sha256(content).hexdigest()
    for group in sizes.values():
        for index in group:
            found[index] = files.sha256(Path(images[index])) if len(group) > 1 else str(images[index])
    return found
