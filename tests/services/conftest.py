"""A small csv and a spec on it."""

import random

import pytest

WORDS = {"good": "lovely bright warm kind fine sweet", "bad": "awful grim cold mean poor bitter"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A fresh home without GPUs."""
    folder = (tmp_path / "home").resolve()
    monkeypatch.setenv("WORKBENCH_HOME", str(folder))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return folder


@pytest.fixture
def table(tmp_path):
    """120 different rows of two classes."""
    rng = random.Random(0)
    lines = ["text,label,score"]
    for number in range(120):
        label = "good" if number % 2 else "bad"
        lines.append(f"{' '.join(rng.sample(WORDS[label].split(), 3))} thing {number},{label},{number}")
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def spec(table):
    """The spec as a plain mapping."""
    return {
        "name": "small",
        "model": "bundled/minilm",
        "task": "text_classification",
        "data": {"source": str(table)},
        "methods": [{"method": "lora", "rank": 4}, "head_only"],
        "training": {"max_steps": 2, "batch_size": 4, "max_length": 16},
        "seeds": [0, 1],
    }
