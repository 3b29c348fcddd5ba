"""Columns are found by whole known names only; what the person wrote is checked against what is there."""

import json

import pytest

from tests.data.test_sources import PARTS, one_sentence
from workbench.core.spec import DataSpec
from workbench.data import guess, load_table, preview, resolve

CAUSAL = ({"prompt": True, "completion": True}, {"messages": True}, {"text": True})


@pytest.mark.parametrize(
    ("present", "wanted", "expected"),
    [
        (["text", "label"], PARTS, {"text": "text", "label": "label"}),
        (["Review", "Sentiment"], PARTS, {"text": "Review", "label": "Sentiment"}),
        (["premise", "hypothesis", "label"], PARTS, {"text": "premise", "text_pair": "hypothesis", "label": "label"}),
        (["sentence1", "sentence2", "label", "idx"], PARTS, {"text": "sentence1", "text_pair": "sentence2", "label": "label"}),
        (["instruction", "output"], CAUSAL[0], {"prompt": "instruction", "completion": "output"}),
        (["system question", "contexts", "labelled"], PARTS, {}),
        (["subtext", "text2", "mislabel"], PARTS, {}),
        (["question_id", "answers"], CAUSAL[0], {}),
        (["Text", "text", "label"], PARTS, {"label": "label"}),
    ],
)
def test_guess(present, wanted, expected):
    found = guess(present, wanted)
    assert found.columns == expected
    assert set(found.reasons) == set(expected)


def test_one_column_never_plays_two_parts():
    assert len(set(guess(["target", "input"], {"label": True, "completion": True}).columns.values())) == 1


def put(write, rows):
    return write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def test_alternatives_in_order_of_preference(write):
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    rows = [{"messages": [*chat[:1], {**chat[1], "content": f"yes {i}"}], "text": f"t{i}"} for i in range(10)]
    splits = load_table(DataSpec(source=put(write, rows)), CAUSAL)
    assert splits.mapping == {"messages": "messages"}
    assert splits.train[0]["messages"][0] == chat[0]
    assert splits.labels == ()
    chosen = load_table(DataSpec(source=put(write, rows), columns={"text": "text"}), CAUSAL)
    assert list(chosen.train.columns) == ["text"]


def test_older_chat_form_is_read(write):
    rows = [{"conversations": [{"from": "human", "value": f"q{i}"}, {"from": "gpt", "value": "a"}]} for i in range(8)]
    first = load_table(DataSpec(source=put(write, rows)), CAUSAL).test[0]["messages"]
    assert [turn["role"] for turn in first] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("hello", "list of messages"),
        ([], "assistant"),
        ([{"role": "user", "content": "q"}], "assistant"),
        ([{"role": "robot", "content": "q"}], "system|user|assistant"),
        ([{"role": "assistant", "content": None}], "system|user|assistant"),
        (None, "2 of 4 rows"),
    ],
)
def test_bad_conversations(write, messages, words):
    good = [{"role": "assistant", "content": "a"}]
    rows = [{"messages": good}, {"messages": messages}, {"messages": messages}, {"messages": good}]
    one_sentence(lambda: load_table(DataSpec(source=put(write, rows)), CAUSAL), words)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": "text", "label": "lable"}, ["'lable' for label", "closest: 'label'"]),
        ({"text": "text", "label": "text"}, ["'text' is named twice"]),
        ({"texts": "text"}, ["part 'texts'", "text, text_pair, label"]),
        ({"text": "a", "label": "b"}, ["has 'text', 'label', 'other'"]),
    ],
)
def test_bad_mappings(write, columns, words):
    path = write("rows.csv", "text,label,other\n" + "".join(f"t{i},{i % 2},z\n" for i in range(9)))
    one_sentence(lambda: load_table(DataSpec(source=path, columns=columns), PARTS), *words)


def test_mapping_may_be_partial_and_pair_is_optional(write):
    path = write("rows.csv", "a,b,label\n" + "".join(f"t{i},{'' if i % 3 else 'u'},{i % 2}\n" for i in range(20)))
    splits = load_table(DataSpec(source=path, columns={"text": "a", "text_pair": "b"}), PARTS)
    assert splits.mapping == {"text": "a", "text_pair": "b", "label": "label"}
    assert set(splits.train.column("text_pair")) == {"", "u"}


def test_no_alternative_fits(write):
    path = write("rows.csv", "question,reply\nq,a\n")
    one_sentence(
        lambda: load_table(DataSpec(source=path), CAUSAL), "{prompt, completion} or {messages} or {text}", "'question', 'reply'"
    )


def test_preview_is_plain_json(write):
    path = write("rows.csv", "review,stars,when\n" + "".join(f"t{i},{i % 2},monday\n" for i in range(20)))
    shown = preview(resolve(DataSpec(source=path, columns={"label": "stars"})), PARTS, 3)
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    assert shown["mapping"] == {"label": "stars", "text": "review"}
    assert shown["reasons"] == {
        "label": '"stars" was chosen: 2 different values.',
        "text": '"review" is a known name for text: 2 characters in the middle row.',
    }
    assert shown["proposed"] == {}
    assert shown["unused"] == ["when"]
    assert shown["counts"] == {"train": 14, "validation": 2, "test": 4}
    assert shown["balance"]["0"]["train"] + shown["balance"]["1"]["train"] == 14
    assert shown["rows"][2] == {"review": "t2", "stars": "0", "when": "monday"}
    assert shown["problem"] is None


def test_preview_says_what_is_missing_and_still_shows_the_rows(write):
    path = write("rows.csv", "words,stars\na,1\nb,2\n")
    shown = preview(DataSpec(source=path), PARTS)
    assert "column for text" in shown["problem"]
    assert len(shown["rows"]) == 2
    assert shown["counts"] == {}
