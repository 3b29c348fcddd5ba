"""The data doctor: every finding is planted and counted; clean data has none; a hundred thousand rows take seconds."""

import json
import random
import time

import numpy as np
import pytest
from PIL import Image

from workbench.core.spec import DataSpec
from workbench.data import preview
from workbench.data.doctor import examine
from workbench.data.findings import gather
from workbench.data.table import Table

PARTS = {"text": True, "text_pair": False, "label": True}
rng = random.Random(0)


def sentence(number):
    """A text of its own."""
    return f"row {number} says {rng.random():.9f} and no more"


def table(first=0, **columns):
    """Rows with ids from `first`; texts and labels that say nothing unless given."""
    count = len(next(iter(columns.values()))) if columns else 40
    plain = {"text": [sentence(first + i) for i in range(count)], "label": ["ab"[i % 2] for i in range(count)]}
    return Table(tuple(range(first, first + count)), {**plain, **columns})


def clean():
    """Three splits with nothing to find."""
    return {"train": table(0), "validation": table(100), "test": table(200)}


def found(tables, what, notes=()):
    """The one finding called `what`; every finding is plain JSON and well formed."""
    every = examine(tables, notes)
    assert json.loads(json.dumps(every, allow_nan=False)) == every
    for one in every:
        assert one.keys() == {"severity", "what", "count", "share", "sentence", "examples"}
        assert one["sentence"].endswith(".")
        assert len(one["examples"]) <= 3
        assert 0 <= one["share"] <= 1
    (one,) = [one for one in every if one["what"] == what]
    return one


def changed(split="train", **cells):
    """The clean data with some cells of one split replaced: part -> {row: cell}."""
    tables = clean()
    for part, values in cells.items():
        for row, cell in values.items():
            tables[split].columns[part][row] = cell
    return tables


def test_clean_data_has_no_findings():
    assert examine(clean()) == []
    assert examine({"train": Table((), {"text": []})}) == []


def test_duplicates_are_counted_in_their_split_only():
    tables = changed(text={4: "The same words.", 6: "The same words.", 8: "the same  WORDS"})
    tables["test"].columns["text"][0] = tables["test"].columns["text"][2]
    exact, near = found(tables, "duplicates"), found(tables, "near_duplicates")
    assert (exact["count"], near["count"]) == (2, 1)
    assert exact["share"] == pytest.approx(2 / 120, abs=1e-6)
    assert exact["examples"][0] == {"id": 6, "split": "train", "text": "The same words."}
    assert near["examples"] == [{"id": 8, "split": "train", "text": "the same WORDS"}]


def test_the_same_text_with_another_label_is_a_contradiction():
    few = found(changed(text={0: "Same.", 1: "same"}), "contradictions")
    assert (few["severity"], few["count"]) == ("warning", 2)
    assert [e["text"] for e in few["examples"]] == ["a: Same.", "b: same"]
    many = found(changed(text=dict.fromkeys(range(6), "Same")), "contradictions")
    assert (many["severity"], many["count"]) == ("problem", 6)


def test_empty_and_short_texts():
    tables = changed(text={0: " \n", 1: "\u200b", 2: "x", 3: "?"})
    empty, short = found(tables, "empty"), found(tables, "one_character")
    assert (empty["severity"], empty["count"], [e["id"] for e in empty["examples"]]) == ("problem", 2, [0, 1])
    assert (short["count"], short["examples"][0]["text"]) == (2, "x")


def test_label_balance_and_rare_labels():
    tables = clean()
    tables["train"].columns["label"][:] = ["a"] * 36 + ["b"] * 2 + ["c"] * 2
    tables["test"].columns["label"][:] = ["a"] * 20 + ["b"] * 20
    balance, rare = found(tables, "label_balance"), found(tables, "rare_labels")
    assert balance["severity"] == "warning"
    assert "'a' has 63.3 % of the rows and 'c' 1.7 %" in balance["sentence"]
    assert rare["sentence"].startswith("2 of 3 labels have fewer than 5 rows in train and validation and test:")
    assert rare["examples"][1]["text"] == "c: 2 in train, 0 in validation, 0 in test"
    few = {"train": table(label=["a"] * 31 + ["b"] * 9)}
    assert found(few, "label_balance")["severity"] == "note"


def test_labels_that_differ_in_case_only():
    one = found(changed(label={0: "A", 2: "A ", 1: "B"}), "label_spelling")
    assert one["severity"] == "problem"
    assert one["sentence"].startswith("5 labels differ only in case or blanks")


def test_leakage_word_for_word_and_folded():
    tables = clean()
    learnt = tables["train"].columns["text"]
    tables["test"].columns["text"][:3] = [learnt[0], f"  {learnt[1].upper()}!", learnt[2]]
    tables["validation"].columns["text"][0] = learnt[4]
    one = found(tables, "leakage")
    assert (one["severity"], one["count"]) == ("problem", 4)
    assert "4 of 80 validation and test rows also stand in the training data (3 word for word)" in one["sentence"]
    assert {(e["split"], e["id"]) for e in one["examples"]} == {("validation", 100), ("test", 200), ("test", 201)}


def test_what_loading_removed_is_a_note(write):
    rows = [f"text number {i},{i % 2}" for i in range(60)]
    test = write("test.csv", "text,label\n" + "\n".join(rows[:20]) + "\n")
    train = write("train.csv", "text,label\n" + "\n".join(rows) + "\n")
    shown = preview(DataSpec(source=train, test=test), PARTS)
    (one,) = [one for one in shown["doctor"] if one["what"] == "removed"]
    assert (one["severity"], one["count"]) == ("note", 20)
    assert one["sentence"] == shown["notes"][0]
    assert not [one for one in shown["doctor"] if one["what"] == "leakage"]


def test_very_long_texts():
    one = found(changed(text={7: "word " * 400}), "long")
    assert (one["severity"], one["count"], one["examples"][0]["id"]) == ("note", 1, 7)
    assert "the longest has 2,000" in one["sentence"]
    assert len(one["examples"][0]["text"]) == 120


@pytest.mark.parametrize(
    "good",
    ["café, naïve, Größe", "Ünïcödé ÃÕ", "日本語のテキスト", "Привет", "5 € “quoted” – dash", "CAFÉ—“é…”", "hänellä…”", "ÂO"],
)
def test_other_languages_are_no_damage(good):
    assert examine(changed(text={0: f"{good} with words"})) == []


WRONG = [(good, "latin-1") for good in ("café", "don’t", "Größe", "日本語", "Привет", "😀")]
WRONG += [(good, "cp1252") for good in ("café", "don’t", "Größe", "本日", "Україна", "😀")]  # all its bytes exist there


@pytest.mark.parametrize(("good", "wrong"), WRONG)
def test_utf8_read_as_another_encoding(good, wrong):
    garbled = good.encode().decode(wrong)
    one = found(changed(text={5: f"before {garbled} after", 6: "fine é"}), "wrong_encoding")
    assert (one["count"], one["examples"][0]["id"]) == (1, 5)


def test_lost_characters():
    assert found(changed("test", text={3: "caf\ufffd"}), "lost_characters")["examples"][0]["id"] == 203


def causal(prompts, completions):
    """Training rows of a language model, without labels."""
    return {"train": Table(tuple(range(len(prompts))), {"prompt": list(prompts), "completion": list(completions)})}


def test_completions():
    prompts = [f"question number {i}" for i in range(20)]
    answers = [f"answer {i}" for i in range(20)]
    answers[3], answers[5] = "\u200b \u200d", "Question number 5."
    tables = causal(prompts, answers)
    assert found(tables, "empty")["sentence"] == "1 of 20 rows has an empty completion: fill or remove them."
    assert found(tables, "echoes")["examples"] == [{"id": 5, "split": "train", "text": "Question number 5."}]


def test_a_known_question_with_another_answer_is_told_apart_from_a_leak():
    tables = causal([f"question {i}" for i in range(20)], [f"answer {i}" for i in range(20)])
    tables["test"] = Table((50, 51), {"prompt": ["question 3", "question 4"], "completion": ["answer 3", "another"]})
    assert found(tables, "leakage")["count"] == 1
    assert found(tables, "known_questions")["examples"] == [{"id": 51, "split": "test", "text": "question 4"}]


def turn(role, content="words"):
    return {"role": role, "content": content}


def test_chats_with_wrong_roles():
    good = [[turn("system"), turn("user", f"ask {i}"), turn("assistant", f"say {i}")] for i in range(17)]
    bad = [
        [turn("user"), turn("assistant", "yes"), turn("user", "and?")],
        [turn("user", "once"), turn("user", "twice"), turn("assistant", "yes")],
        [turn("user", "x y z"), turn("system"), turn("assistant", "yes")],
        [turn("user", "alone")],
    ]
    tables = {"train": Table(tuple(range(21)), {"messages": good + bad})}
    last, order = found(tables, "no_answer"), found(tables, "role_order")
    assert (last["severity"], [e["id"] for e in last["examples"]]) == ("problem", [17, 20])
    assert (order["severity"], [e["text"] for e in order["examples"]]) == (
        "warning",
        ["user > user > assistant", "user > system > assistant"],
    )


def test_rows_that_cannot_be_loaded_are_examined_as_they_stand(write):
    path = write("rows.csv", "text,label\n" + "".join(f"text number {i},{i % 2}\n" for i in range(20)) + ",1\n ,0\n")
    shown = preview(DataSpec(source=path), PARTS)
    assert "2 of 22 rows lack it" in shown["problem"]
    (one,) = [one for one in shown["doctor"] if one["what"] == "empty"]
    assert [(e["id"], e["split"]) for e in one["examples"]] == [(20, "source"), (21, "source")]


def test_images(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for i in range(10):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{i}.png")
    (tmp_path / "dog" / "0.png").write_bytes((tmp_path / "cat" / "0.png").read_bytes())
    (tmp_path / "dog" / "broken.png").write_bytes(b"no image at all")
    whole = (tmp_path / "cat" / "1.png").read_bytes()
    (tmp_path / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGBA", (8, 40)).save(tmp_path / "cat" / "thin.png")
    every = sorted(tmp_path.rglob("*.png"))
    tables = {"train": Table(tuple(range(len(every))), {"image": every, "label": [p.parent.name for p in every]})}
    broken = found(tables, "unreadable_images")
    assert (broken["severity"], {e["text"].split(",")[0] for e in broken["examples"]}) == ("problem", {"broken.png", "cut.png"})
    assert found(tables, "tiny_images")["examples"][0]["text"] == "thin.png, 8 x 40 RGBA"
    assert (found(tables, "duplicates")["count"], found(tables, "contradictions")["count"]) == (1, 1)
    assert "2 sizes, from 8 x 40 to 32 x 32 pixels" in found(tables, "mixed_sizes")["sentence"]
    assert "(21 RGB, 1 RGBA)" in found(tables, "mixed_modes")["sentence"]
    apart = {"train": tables["train"].select(range(11)), "test": tables["train"].select(range(11, len(every)))}
    assert found(apart, "leakage")["severity"] == "problem"


def test_more_rows_than_are_looked_at_are_sampled_evenly():
    big = {"train": table(text=[str(i) * 3 for i in range(1000)]), "test": table(text=[str(i) * 4 for i in range(100)])}
    rows = gather(big, most=110)
    assert (len(rows), rows.total) == (110, 1100)
    assert rows.splits.count("test") == 10
    assert rows.ids[:3] == [0, 10, 20]


def test_time_is_linear_and_a_hundred_thousand_rows_take_seconds():
    words = [f"word{i}" for i in range(3000)]

    def seconds(count):
        rows = Table(
            tuple(range(count)),
            {"text": [" ".join(rng.choices(words, k=25)) for _ in range(count)], "label": ["a", "b"] * (count // 2)},
        )
        start = time.process_time()
        assert examine({"train": rows}) == []
        return time.process_time() - start

    small, large = seconds(10_000), seconds(100_000)
    assert large < 6
    assert large < 20 * small
