"""Splits are disjoint by content, deterministic and stratified; test rows depend on data, seed and fraction alone."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.test_sources import PARTS, one_sentence
from workbench.core.spec import DataSpec
from workbench.data import load_table
from workbench.data.split import divide, limited

ROWS = st.lists(st.tuples(st.integers(0, 60).map(str), st.sampled_from("abcd")), min_size=12, max_size=120)
FRACTIONS = st.tuples(st.sampled_from([0.05, 0.1, 0.2, 0.3]), st.sampled_from([0.05, 0.15, 0.2, 0.3]))


def parts_of(rows, fractions, seed=0):
    keys, labels = [k for k, _ in rows], [label for _, label in rows]
    return divide(keys, labels, fractions, seed)


def distinct(rows):
    return len({key for key, _ in rows}) >= 8


def can_be_cut(rows):
    """No content fills so much of the data that nothing is left for a split."""
    counts = Counter(key for key, _ in rows)
    return len(counts) >= 8 and max(counts.values()) <= len(rows) / 10


@settings(max_examples=150, deadline=None)
@given(ROWS.filter(can_be_cut), FRACTIONS, st.integers(0, 5))
def test_every_row_once_and_no_content_twice(rows, fractions, seed):
    found = parts_of(rows, fractions, seed)
    assert sorted(i for part in found for i in part) == list(range(len(rows)))
    contents = [{rows[i][0] for i in part} for part in found]
    assert not contents[0] & contents[1]
    assert not contents[0] & contents[2]
    assert not contents[1] & contents[2]
    assert all(part == sorted(part) for part in found)
    assert parts_of(rows, fractions, seed) == found


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from("aaabbc"), min_size=30, max_size=200), FRACTIONS)
def test_labels_keep_their_proportion(labels, fractions):
    rows = [(str(i), label) for i, label in enumerate(labels)]
    train, validation, test = parts_of(rows, fractions)
    assert (len(validation), len(test)) == tuple(max(1, round(f * len(rows))) for f in fractions)
    for label, count in Counter(labels).items():
        assert any(labels[i] == label for i in train)
        for part, fraction in ((validation, fractions[0]), (test, fractions[1])):
            assert abs(sum(labels[i] == label for i in part) - fraction * count) <= 3


@settings(max_examples=60, deadline=None)
@given(ROWS.filter(distinct), st.sampled_from([0.05, 0.1, 0.3]), st.integers(1, 100))
def test_test_rows_ignore_validation_limit_and_row_order(rows, validation, limit):
    rows = list(dict(rows).items())
    train, _, test = parts_of(rows, (validation, 0.2))
    assert parts_of(rows, (0.2, 0.2))[2] == test
    assert parts_of(rows, (None, 0.2))[2] == test
    backwards = parts_of(rows[::-1], (validation, 0.2))[2]
    assert {rows[::-1][i] for i in backwards} == {rows[i] for i in test}
    keys, labels = [k for k, _ in rows], [label for _, label in rows]
    fewer, more = (limited(train, keys, labels, n, 0) for n in (limit, limit + 3))
    assert len(fewer) == min(limit, len(train))
    assert set(fewer) <= set(more) <= set(train)


def test_class_with_one_row_stays_in_training():
    labels = ["a"] * 30 + ["b"] * 30 + ["c"]
    train, _, _ = divide([str(i) for i in range(61)], labels, (0.2, 0.4), 0)
    assert 60 in train


def test_seed_changes_the_rows():
    keys = [str(i) for i in range(100)]
    assert divide(keys, None, (0.1, 0.2), 0)[2] != divide(keys, None, (0.1, 0.2), 1)[2]


def test_split_is_the_same_on_every_machine():
    keys, labels = [f"row {i}" for i in range(40)], ["ab"[i % 2] for i in range(40)]
    assert divide(keys, labels, (0.1, 0.15), 0)[1:] == ([7, 18, 19, 36], [1, 4, 9, 27, 28, 32])


def table(write, name, rows):
    return write(name, "text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))


def texts(part):
    return set(part.column("text"))


def test_files_as_splits_keep_their_rows_and_lose_no_test_row(write):
    source = table(write, "train.csv", [(f"t{i}", "ab"[i % 2]) for i in range(30)])
    test = table(write, "test.csv", [("t3", "b"), ("new", "a")])
    validation = table(write, "validation.csv", [("T3 ", "b"), ("t5", "b"), ("fresh", "a")])
    splits = load_table(DataSpec(source=source, test=test, validation=validation), PARTS)
    assert texts(splits.test) == {"t3", "new"}
    assert texts(splits.validation) == {"t5", "fresh"}
    assert len(splits.train) == 28
    assert not texts(splits.train) & {"t3", "t5"}
    assert splits.test.ids == (0, 1)
    assert splits.validation.ids == (1, 2)
    assert len(splits.notes) == 3


def test_file_for_test_and_fraction_for_validation(write):
    source = table(write, "train.csv", [(f"t{i}", "ab"[i % 2]) for i in range(30)])
    test = table(write, "test.csv", [(f"t{i}", "ab"[i % 2]) for i in range(5)])
    splits = load_table(DataSpec(source=source, test=test, validation=0.2), PARTS)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (20, 5, 5)
    assert not (texts(splits.train) | texts(splits.validation)) & texts(splits.test)


def test_other_files_must_fit(write):
    source = table(write, "train.csv", [(f"t{i}", "ab"[i % 2]) for i in range(30)])
    strange = table(write, "strange.csv", [("new", "c"), ("newer", "a")])
    one_sentence(lambda: load_table(DataSpec(source=source, test=strange), PARTS), "'c' does not", "test data")
    columns = write("columns.csv", "words,label\nnew,a\n")
    one_sentence(lambda: load_table(DataSpec(source=source, validation=columns), PARTS), "validation data", "'text'")
    same = write("same.csv", "text,label\n" + "".join(f"T{i},{'ab'[i % 2]}\n" for i in range(30)))
    one_sentence(lambda: load_table(DataSpec(source=source, test=same), PARTS), "training rows", "differ")


@pytest.mark.parametrize("limit", [1, 7, 40])
def test_limit_touches_training_rows_only(write, limit):
    source = table(write, "rows.csv", [(f"t{i}", "abc"[i % 3]) for i in range(60)])
    whole = load_table(DataSpec(source=source), PARTS)
    some = load_table(DataSpec(source=source, limit=limit), PARTS)
    assert some.test == whole.test
    assert some.validation == whole.validation
    assert len(some.train) == limit
    assert set(some.train.ids) <= set(whole.train.ids)
    assert some.labels == whole.labels
    assert some.label_ids(some.train) == ["abc".index(row["label"]) for row in some.train]


def test_table_select_keeps_ids(write):
    splits = load_table(DataSpec(source=table(write, "rows.csv", [(f"t{i}", "ab"[i % 2]) for i in range(20)])), PARTS)
    chosen = splits.train.select([2, 0])
    assert chosen.ids == (splits.train.ids[2], splits.train.ids[0])
    assert chosen[0] == splits.train[2]
