"""Shifted rows: what changes, how much, and that nothing else does."""

import numpy as np
import pytest

from workbench.core.errors import WorkbenchError
from workbench.data import Table
from workbench.data.shifts import blur, inversion, shifted, typos

GREY = np.full((8, 8), 100, dtype=np.uint8)
WORDS = " ".join(f"word{i} longer text" for i in range(1000))


def draws():
    return np.random.default_rng(0)


def images():
    return Table((3, 7), {"image": [GREY, GREY], "label": ["a", "b"]})


def test_images_get_three_shifts_and_keep_their_labels():
    found = shifted(images(), 0.2)
    assert list(found) == ["noise", "blur", "inversion"]
    for some in found.values():
        assert (some.ids, some.columns["label"]) == ((3, 7), ["a", "b"])
        assert all(i.shape == (8, 8, 3) and i.dtype == np.uint8 for i in some.columns["image"])
    assert images().columns["image"][0] is GREY, "the rows themselves stay"


def test_noise_has_the_severity_as_its_deviation():
    (noisy, other) = shifted(Table((1, 2), {"image": [np.full((200, 200), 128, np.uint8)] * 2}), 0.1)["noise"].columns["image"]
    assert noisy.astype(float).std() / 255 == pytest.approx(0.1, rel=0.02)
    assert noisy.mean() == pytest.approx(128, abs=1)
    assert not np.array_equal(noisy, other), "every row has draws of its own"


def test_blur_keeps_the_brightness_and_takes_the_edges():
    edge = np.zeros((16, 16, 3), np.uint8)
    edge[:, 8:] = 200
    soft = blur(edge, 0.5, draws())
    assert soft.mean() == pytest.approx(edge.mean(), abs=1)
    assert 0 < soft[8, 7, 0] < soft[8, 8, 0] < 200
    assert np.array_equal(blur(edge, 1e-6, draws()), edge)


def test_inversion_is_its_own_inverse():
    image = draws().integers(0, 256, (5, 6, 3)).astype(np.uint8)
    assert np.array_equal(inversion(inversion(image, 0.3, draws()), 0.3, draws()), image)


def test_typos_change_the_asked_share_of_words_by_one_letter():
    before, after = WORDS.split(" "), typos(WORDS, 0.3, draws()).split(" ")
    assert len(before) == len(after)
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(changed) / len(before) == pytest.approx(0.3, abs=0.03)  # swapping two equal letters changes nothing
    for a, b in changed:
        assert abs(len(a) - len(b)) <= 1
        assert b
    assert typos("an is to", 1.0, draws()) == "an is to", "words that are too short stay"


def test_only_what_is_read_is_mistyped():
    table = Table((0,), {"text": [WORDS], "text_pair": [WORDS], "label": [WORDS]})
    (some,) = shifted(table, 0.5).values()
    assert some.columns["label"] == [WORDS]
    assert WORDS not in (some.columns["text"][0], some.columns["text_pair"][0])
    asked = shifted(Table((0,), {"prompt": [WORDS], "completion": [WORDS]}), 0.5)["typos"]
    assert asked.columns["completion"] == [WORDS]


def test_a_row_is_shifted_the_same_way_whatever_stands_beside_it():
    table = Table((4, 5, 6), {"text": [WORDS, WORDS, WORDS]})
    whole, part = shifted(table, 0.3)["typos"], shifted(table.select([2]), 0.3)["typos"]
    assert whole.columns["text"][2] == part.columns["text"][0]
    assert whole.columns["text"][0] != whole.columns["text"][1]
    assert whole.columns == shifted(table, 0.3)["typos"].columns
    assert whole.columns != shifted(table, 0.3, seed=1)["typos"].columns


def test_rows_without_image_or_text_are_one_sentence():
    with pytest.raises(WorkbenchError, match=r"rows can be shifted where they hold an image or a text; these hold messages\."):
        shifted(Table((0,), {"messages": [[]]}), 0.3)
