"""Folders of images: classes, splits, duplicates, and images nobody should trust."""

import base64
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.data.test_sources import one_sentence
from workbench.core.spec import DataSpec
from workbench.data import check_unchanged, load_table, pixels, preview, resolve

PARTS = {"image": True, "label": True}


def png(seed, size=(6, 5)):
    values = np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def bomb():
    """A PNG whose header promises 90 billion pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 300_000, 300_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.fixture
def animals(write, tmp_path):
    for i in range(12):
        write(f"animals/cat/{i}.png", png(i))
        write(f"animals/dog/{i}.png", png(100 + i))
    return tmp_path / "animals"


def test_folder_of_classes(animals):
    splits = load_table(resolve(DataSpec(source=str(animals))), PARTS)
    assert splits.labels == ("cat", "dog")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (17, 2, 5)
    first = splits.train[0]
    assert pixels(first["image"]).shape == (6, 5, 3)
    assert os.path.basename(os.path.dirname(first["image"])) == first["label"]


def test_equal_images_stay_together(animals, write):
    for i in range(12):
        write(f"animals/cat/copy{i}.png", png(i))
    splits = load_table(DataSpec(source=str(animals)), PARTS)
    contents = [
        {pixels(path).tobytes() for path in part.column("image")} for part in (splits.train, splits.validation, splits.test)
    ]
    assert not contents[0] & contents[1]
    assert not (contents[0] | contents[1]) & contents[2]


def test_split_folders_are_used_when_named(write, tmp_path):
    for part, count in (("train", 10), ("val", 3), ("test", 4)):
        for i in range(count):
            for label in ("cat", "dog"):
                write(f"pets/{part}/{label}/{i}.png", png(zlib.crc32(f"{part}{label}{i}".encode())))
    source = str(tmp_path / "pets")
    splits = load_table(resolve(DataSpec(source=source, validation="validation", test="test")), PARTS)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (20, 6, 8)
    fractions = load_table(DataSpec(source=source), PARTS)
    assert len(fractions.train) + len(fractions.validation) + len(fractions.test) == 20
    one_sentence(lambda: resolve(DataSpec(source=source, test="holdout")), "splits train, validation, test")


def test_other_folder_as_test(animals, write, tmp_path):
    write("more/cat/a.png", png(500))
    write("more/dog/b.png", png(101))
    splits = load_table(resolve(DataSpec(source=str(animals), test=str(tmp_path / "more"))), PARTS)
    assert len(splits.test) == 2
    assert len(splits.train) + len(splits.validation) == 23
    assert "1 training rows left out" in splits.notes[0]


def test_hash_covers_names_and_contents(animals, write):
    ref = resolve(DataSpec(source=str(animals)))
    write("animals/notes.txt", "not an image")
    check_unchanged(ref)
    os.rename(animals / "cat" / "0.png", animals / "cat" / "zero.png")
    one_sentence(lambda: check_unchanged(ref), "changed since")
    os.rename(animals / "cat" / "zero.png", animals / "cat" / "0.png")
    check_unchanged(ref)
    write("animals/cat/0.png", png(77))
    one_sentence(lambda: check_unchanged(ref), "changed since")


def test_bad_folders(write, tmp_path):
    write("flat/a.png", png(0))
    one_sentence(lambda: resolve(DataSpec(source=str(tmp_path / "flat"))), "one sub-folder of images per class")
    write("one/cat/a.png", png(0))
    write("one/dog/readme.txt", "none")
    one_sentence(lambda: resolve(DataSpec(source=str(tmp_path / "one"))), "every class folder must hold images", "dog")
    for i in range(5):
        write(f"single/cat/{i}.png", png(i))
    one_sentence(lambda: load_table(DataSpec(source=str(tmp_path / "single")), PARTS), "two different labels")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (png(0)[:-40], "whole image"),
        (b"GIF89a nonsense", "whole image"),
        (b"", "empty"),
        (bomb(), "50 million pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "whole image"),
    ],
)
def test_untrustworthy_images(write, content, words):
    path = write("a.png", content)
    one_sentence(lambda: pixels(path), words)


def test_all_forms_of_an_image():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert pixels(grey).shape == (8, 8, 3)
    assert (pixels(grey)[..., 2] == grey).all()
    expected = np.asarray(Image.open(io.BytesIO(png(1))))
    assert (pixels(png(1)) == expected).all()
    assert (pixels({"bytes": png(1), "path": None}) == expected).all()
    assert (pixels(Image.fromarray(expected)) == expected).all()
    one_sentence(lambda: pixels(3.0), "float")


def test_paths_in_a_table_stay_inside_its_folder(write):
    for i in range(8):
        write(f"pictures/{i}.png", png(i))
    rows = "".join(f"pictures/{i}.png,{'ab'[i % 2]}\n" for i in range(8))
    splits = load_table(DataSpec(source=write("rows.csv", "file_name,label\n" + rows)), PARTS)
    assert pixels(splits.train[0]["image"]).shape == (6, 5, 3)
    outside = write("outside.csv", "image,label\n../../etc/passwd,a\n" + rows)
    one_sentence(lambda: load_table(DataSpec(source=outside), PARTS), "must not lead out")


def test_preview_shows_pictures(animals):
    shown = preview(DataSpec(source=str(animals)), PARTS, 1)
    head, _, body = shown["rows"][0]["image"].partition(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(body))).size == (5, 6)
    assert sum(shown["balance"]["cat"].values()) == 12
