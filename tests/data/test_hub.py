"""Hub data: without a network one sentence; with a stub of `datasets` in its place, splits, classes and images."""

import io
from types import SimpleNamespace

import datasets
import huggingface_hub
import numpy as np
import pytest
from PIL import Image

from tests.data.test_sources import one_sentence
from workbench.core.spec import DataSpec
from workbench.data import hub, load_table, pixels, resolve

PARTS = {"text": True, "label": True}


def test_offline_is_one_sentence():
    one_sentence(lambda: resolve(DataSpec(source="nobody/nothing")), "'nobody/nothing'", "Hub", "OfflineMode", "network")


def test_unreachable_hub_is_one_sentence(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    message = one_sentence(lambda: resolve(DataSpec(source="nobody/nothing:plain")), "nobody/nothing:plain", "refused")
    assert "attribute" not in message


@pytest.mark.parametrize("source", ["org/name", "org/name:config", "a-b/c.d_e:v1.0"])
def test_hub_ids(source):
    assert hub.is_hub_id(source)


@pytest.mark.parametrize("source", ["name", "a/b/c", "../x", "a/../b", "/a/b", "org/name:", "org/na me", "-x/y", "a/..", "~/x"])
def test_no_hub_ids(source):
    assert not hub.is_hub_id(source)


def encoded(i):
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture
def stub(monkeypatch):
    """A `datasets` whose Hub holds one set, `org/pets`, of two splits."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["cat", "dog"]), "image": datasets.Image()}
    )

    def rows(low, high):
        cells = {"text": [f"t{i}" for i in range(low, high)], "label": [i % 2 for i in range(low, high)]}
        return datasets.Dataset.from_dict({**cells, "image": [encoded(i) for i in range(low, high)]}, features=features)

    parts = {"train": rows(0, 40), "test": rows(40, 50)}

    def known(name, config=None, **_):
        if name != "org/pets":
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub.\nPlease check.")
        return SimpleNamespace(info=SimpleNamespace(splits=parts))

    monkeypatch.setattr(datasets, "load_dataset_builder", known)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config=None, split=None: parts[split])


@pytest.mark.usefixtures("stub")
def test_splits_and_class_names():
    splits = load_table(resolve(DataSpec(source="org/pets", test="test")), PARTS)
    assert splits.labels == ("cat", "dog")
    assert len(splits.test) == 10
    assert len(splits.train) + len(splits.validation) == 40
    assert splits.test[1] == {"id": 1, "text": "t41", "label": "dog"}


@pytest.mark.usefixtures("stub")
def test_images_stay_encoded_until_they_are_needed():
    splits = load_table(DataSpec(source="org/pets"), {"image": True, "label": True})
    row = splits.train[0]
    assert pixels(row["image"]).shape == (4, 4, 3)
    assert (pixels(row["image"]) == row["id"]).all()


@pytest.mark.usefixtures("stub")
def test_wrong_names():
    one_sentence(lambda: resolve(DataSpec(source="org/pet")), "doesn't exist on the Hub")
    one_sentence(lambda: load_table(DataSpec(source="org/pets", test="tests"), PARTS), "no split of org/pets", "closest: test")
