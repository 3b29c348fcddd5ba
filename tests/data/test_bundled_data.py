"""The data that comes along: complete, balanced, free of duplicates, of its own module names and of heavy imports."""

import ast
import heapq
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from workbench.core.paths import cache
from workbench.core.spec import DataSpec
from workbench.data import bundled, load_table, resolve

PARTS = {"text": True, "text_pair": False, "label": True}


def rows_of(data_home, make):
    """A bundled table, made in the home that the data tests share, row by row."""
    os.environ["WORKBENCH_HOME"], before = str(data_home), os.environ["WORKBENCH_HOME"]
    table = make()
    os.environ["WORKBENCH_HOME"] = before
    return [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]


@pytest.fixture(scope="module")
def rows(data_home):
    return rows_of(data_home, bundled.docstring_table)


def test_ten_topics_of_usable_size(rows):
    counts = Counter(row["label"] for row in rows)
    assert set(counts) == set(bundled.TOPICS)
    assert 5_000 < len(rows) < 8_000
    assert min(counts.values()) > 150  # graphical interfaces where Python comes without tkinter: 184
    assert max(counts.values()) < 0.2 * len(rows)


def test_no_duplicates_and_no_module_names(rows):
    assert len({row["text"].casefold() for row in rows}) == len(rows)
    for row in rows:
        top = row["module"].split(".")[0]
        assert not re.search(rf"(?<!\w){re.escape(top)}(?!\w)", row["text"])
        assert bundled.SHORTEST <= len(row["text"]) <= bundled.LONGEST


def test_every_module_has_one_topic():
    modules = " ".join(bundled.TOPICS.values()).split()
    assert len(modules) == len(set(modules))


def test_rows_come_from_real_docstrings(rows):
    heap = [row["text"] for row in rows if row["module"] == "heapq"]
    tree = ast.parse(Path(heapq.__file__).read_text(encoding="utf-8"))
    first = " ".join(ast.get_docstring(next(n for n in ast.walk(tree) if getattr(n, "name", "") == "heappush")).split())
    assert first in heap


def test_rebuilding_gives_the_same_rows_and_nothing_is_left_behind(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "_topic_of", lambda: {"asyncio": "concurrency"})
    assert bundled._docstring_rows() == [row for row in rows if row["module"].split(".")[0] == "asyncio"]
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))

    def full_disk():
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        bundled.cached("broken", full_disk)
    assert list((cache() / "data").iterdir()) == []


def test_docstrings_split_by_topic():
    ref = resolve(DataSpec(source="bundled/docstrings", limit=2500))
    assert ref.files == {}
    splits = load_table(ref, PARTS)
    assert splits.labels == tuple(sorted(bundled.TOPICS))
    assert len(splits.train) == 2500
    assert set(Counter(splits.train.column("label"))) == set(splits.labels)
    assert load_table(ref, ({"text": True},)).mapping == {"text": "text"}


@pytest.fixture(scope="module")
def questions(data_home):
    return rows_of(data_home, bundled.choice_table)


def test_questions_have_one_answer_that_they_do_not_name(questions):
    assert 2_000 < len(questions) < 4_000
    assert len({row["text"].casefold() for row in questions}) == len(questions)
    for row in questions:
        assert len(set(row["choices"])) == len(row["choices"]) == bundled.CHOICES
        assert row["answer"] in row["choices"]
        assert row["answer"].casefold() not in row["text"].casefold()


def test_the_right_choice_stands_anywhere(questions):
    places = Counter(row["choices"].index(row["answer"]) for row in questions)
    assert all(0.2 < places[i] / len(questions) < 0.3 for i in range(bundled.CHOICES))


def test_questions_and_answers_belong_together(questions):
    found = {row["text"]: row["answer"] for row in questions if row["module"] == "heapq"}
    first = " ".join(heapq.heappop.__doc__.split("\n\n")[0].split())
    assert found[f'"""{first}"""\ndef'] == "heappop"


def test_choices_load_by_their_names():
    splits = load_table(resolve(DataSpec(source="bundled/choices", limit=16)), ({"text": True, "choices": True, "answer": True},))
    assert (len(splits.train), splits.labels) == (16, ())


def test_digits():
    splits = load_table(resolve(DataSpec(source="bundled/digits")), {"image": True, "label": True})
    assert splits.labels == tuple("0123456789")
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 1797
    image = splits.train[0]["image"]
    assert image.dtype == np.uint8
    assert image.shape == (8, 8)
    assert max(image.max() for image in splits.train.column("image")) == 255


def test_tables_need_no_pandas_pyarrow_datasets_or_torch(data_home, write):
    path = write("rows.csv", "text,label\n" + "".join(f"t{i},{i % 2}\n" for i in range(9)))
    code = f"""
import sys
for name in ("pandas", "pyarrow", "datasets", "torch", "transformers", "huggingface_hub"):
    sys.modules[name] = None
from workbench.core.spec import DataSpec
from workbench.data import load_table, resolve
parts = {{"text": True, "label": True}}
print(len(load_table(resolve(DataSpec(source={path!r})), parts).train))
print(len(load_table(DataSpec(source="bundled/docstrings"), parts).test))
"""
    environment = {**os.environ, "WORKBENCH_HOME": str(data_home)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True, timeout=60)
    few, many = map(int, found.stdout.split())
    assert few == 6
    assert many > 1000
