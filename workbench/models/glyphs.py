"""Drawn pictures for pretraining the bundled ViT: letters, invented characters, shapes, patches of photographs; no digits."""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

CANVAS, SIZE = 48, 16
LIKE_DIGITS = frozenset("0123456789OoQDCcIlijJ|SsZzBbGgqaTtLEAYyep?&@βγδεζξθΘΞσ")
"""Digits, and letters that some hand or font writes like one; none of them is ever drawn."""
LETTERS = "".join(c for c in f"{ascii_uppercase}{ascii_lowercase}ΓΔΘΛΞΠΣΦΨΩαβγδεζηθλμξπστφψω&%#@?" if c not in LIKE_DIGITS)
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Italic",
    "DejaVuSansMono",
    "STIXGeneral",
)
SHAPES = ("triangle", "square", "diamond", "star", "plus", "cross", "arrow", "stripes", "checks")
INVENTED = 80
PHOTOGRAPHS = ("china.jpg", "flower.jpg")
CLASSES = (
    *(f"letter {c}" for c in LETTERS),
    *(f"invented {i}" for i in range(INVENTED)),
    *(f"shape {s}" for s in SHAPES),
    *(f"photograph {p}" for p in PHOTOGRAPHS),
)


@lru_cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib  # only its data folder: the fonts that come with it

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)


@lru_cache
def _photograph(name: str) -> Image.Image:
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image(name))


def _letter(letter: str, draw: np.random.Generator) -> Image.Image:
    image = Image.new("L", (CANVAS, CANVAS))
    font = _font(FONTS[draw.integers(len(FONTS))], int(draw.integers(30, 42)))
    ImageDraw.Draw(image).text((CANVAS / 2, CANVAS / 2), letter, fill=255, font=font, anchor="mm")
    return image


def _curve(points: np.ndarray) -> list[tuple[float, float]]:
    """A quadratic Bezier curve through its control points (3, 2) as 13 points."""
    t = np.linspace(0, 1, 13)[:, None]
    path = (1 - t) ** 2 * points[0] + 2 * t * (1 - t) * points[1] + t**2 * points[2]
    return [tuple(p) for p in path]


def _invented(number: int, draw: np.random.Generator) -> Image.Image:
    """Character `number` of an alphabet that exists nowhere: three to four strokes, drawn a little differently each time."""
    alphabet = np.random.default_rng(10_000 + number)
    strokes = alphabet.uniform(8, CANVAS - 8, (int(alphabet.integers(3, 5)), 3, 2))
    image = Image.new("L", (CANVAS, CANVAS))
    pen, width = ImageDraw.Draw(image), int(draw.integers(3, 8))
    for stroke in strokes + draw.normal(0, 1.5, strokes.shape):
        pen.line(_curve(stroke), fill=255, width=width, joint="curve")
    return image


def _shape(name: str, draw: np.random.Generator) -> Image.Image:
    image = Image.new("L", (CANVAS, CANVAS))
    pen, width, centre = ImageDraw.Draw(image), int(draw.integers(3, 7)), CANVAS / 2
    radius = draw.uniform(12, 20)
    if name in ("stripes", "checks"):
        period = int(draw.integers(6, 14))
        rows, columns = np.indices((CANVAS, CANVAS)) // period
        pattern = rows % 2 if name == "stripes" else (rows + columns) % 2
        return Image.fromarray((pattern * 255).astype(np.uint8))
    if name in ("plus", "cross"):
        turn = 0.0 if name == "plus" else np.pi / 4
        for angle in (turn, turn + np.pi / 2):
            step = radius * np.array([np.cos(angle), np.sin(angle)])
            pen.line([tuple(centre - step), tuple(centre + step)], fill=255, width=width)
        return image
    if name == "arrow":
        pen.line([(centre - radius, centre), (centre + radius, centre)], fill=255, width=width)
        pen.line([(centre, centre - radius), (centre + radius, centre), (centre, centre + radius)], fill=255, width=width)
        return image
    corners = {"triangle": 3, "square": 4, "diamond": 4, "star": 10}[name]
    angles = np.arange(corners) * 2 * np.pi / corners + (np.pi / 4 if name == "square" else -np.pi / 2)
    reach = np.where(np.arange(corners) % 2, 0.45, 1.0) if name == "star" else np.ones(corners)
    points = centre + radius * reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    pen.polygon([tuple(p) for p in points], outline=255, width=width, fill=255 if draw.random() < 0.3 else None)
    return image


def _moved(image: Image.Image, draw: np.random.Generator) -> Image.Image:
    """A small random rotation, shear, stretch and shift around the centre."""
    angle, shear = np.deg2rad(draw.uniform(-14, 14)), draw.uniform(-0.25, 0.25)
    stretch = draw.uniform(0.65, 1.05, 2)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.array([[1, shear], [0, 1]]) @ np.diag(stretch)
    offset = CANVAS / 2 - matrix @ np.full(2, CANVAS / 2) + draw.uniform(-3, 3, 2)
    values = (*matrix[0], offset[0], *matrix[1], offset[1])
    return image.transform((CANVAS, CANVAS), Image.Transform.AFFINE, values, Image.Resampling.BILINEAR)


def _coloured(ink: Image.Image, draw: np.random.Generator) -> np.ndarray:
    """Ink (SIZE, SIZE) to RGB: mostly white on black, sometimes two random colours."""
    amount = np.asarray(ink, np.float32)[..., None] / 255
    front, back = np.full(3, draw.uniform(180, 255)), np.full(3, draw.uniform(0, 20))
    if draw.random() < 0.2:
        front, back = draw.uniform(0, 255, (2, 3))
    return amount * front + (1 - amount) * back


def draw_one(label: int, draw: np.random.Generator) -> np.ndarray:
    """One random picture of class `label`.

    Returns:
        uint8 array (16, 16, 3).
    """
    kind, _, name = CLASSES[label].partition(" ")
    if kind == "photograph":
        photograph, side = _photograph(name), int(draw.integers(32, 200))
        left, top = draw.integers(photograph.width - side), draw.integers(photograph.height - side)
        image = photograph.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        return np.asarray(image)
    makers: dict[str, Callable] = {"letter": partial(_letter, name), "shape": partial(_shape, name)}
    picture = makers[kind](draw) if kind in makers else _invented(int(name), draw)
    picture = _moved(picture, draw).filter(ImageFilter.GaussianBlur(draw.uniform(0, 1.5)))
    coarse = int(draw.choice((8, 8, 10, 16)))
    picture = picture.resize((coarse, coarse), Image.Resampling.BOX).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    noisy = _coloured(picture, draw) + draw.normal(0, draw.uniform(0, 8), (SIZE, SIZE, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` pictures in random order of classes.

    Returns:
        uint8 images (count, 16, 16, 3) and int64 labels (count,), indices into `CLASSES`.
    """
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, len(CLASSES), count)
    return np.stack([draw_one(int(label), draw) for label in labels]), labels
