"""The token view and `examined`: pieces, truncation, suggestions and image facts, as plain values."""

import json

import pytest

from workbench.core.errors import WorkbenchError
from workbench.core.spec import parse_spec
from workbench.jobs import engine
from workbench.services import data
from workbench.services.tokens import tokens

TEXT = "text_classification"


@pytest.fixture
def long(tmp_path):
    """200 rows of 4 to 22 words, and one of 300."""
    path = tmp_path / "long.csv"
    rows = [" ".join(["good"] * (4 + i % 19)) + f" end {i}" for i in range(199)] + ["good " * 300 + "over"]
    path.write_text("text,label\n" + "".join(f"{text},{i % 2}\n" for i, text in enumerate(rows)))
    return {"source": str(path), "test": 0.01, "validation": 0.01}


def test_pieces_are_what_the_model_sees(home, long):
    found = tokens(long, TEXT, "bundled/minilm", 8, rows=4)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    lengths = [row["length"] for row in found["rows"]]
    assert lengths == sorted(lengths)
    for row in found["rows"]:
        assert row.keys() == {"id", "split", "pieces", "length", "truncated", "hidden"}
        assert len(row["pieces"]) + row["hidden"] == row["length"]
        assert row["truncated"] == (row["length"] > 8)
        left = [p for p in row["pieces"] if not p["cut"]]
        assert len(left) == min(8, row["length"])
        assert [p["text"] for p in left if p["special"]] == ["[CLS]", "[SEP]"]
        assert not any(p["loss"] for p in row["pieces"])
    assert [p["text"] for p in found["rows"][0]["pieces"][:4]] == ["[CLS]", "good", "good", "good"]
    assert found["scores"] == "label"
    longest = found["rows"][-1]
    assert longest["length"] == 303
    assert longest["hidden"] > 0
    assert longest["pieces"][-1]["text"] == "[SEP]"


def test_the_truncation_share_is_counted_and_a_length_suggested(home, long):
    found = tokens(long, TEXT, "bundled/minilm", 16)
    cut = found["truncation"]
    assert (cut["n"], cut["of"], cut["at_max_length"]) == (196, 196, 16)
    exact = tokens(long, TEXT, "bundled/minilm", 16, rows=300)
    lengths = [row["length"] for row in exact["rows"]]
    assert len(lengths) == 196
    assert cut["share"] == sum(n > 16 for n in lengths) / 196
    assert (cut["p50"], cut["longest"]) == (sorted(lengths)[97], max(lengths))
    better = found["suggestion"]
    assert better["max_length"] == 32
    assert better["share"] == sum(n > 32 for n in lengths) / 196 < 0.01
    assert f"{100 * cut['share']:.1f} %" in better["sentence"]
    assert tokens(long, TEXT, "bundled/minilm", better["max_length"])["suggestion"] is None


def test_a_suggestion_never_exceeds_what_the_model_takes(home, tmp_path):
    path = tmp_path / "huge.csv"
    path.write_text("text,label\n" + "".join(f"{'word ' * 600}{i},{i % 2}\n" for i in range(30)))
    found = tokens(str(path), TEXT, "bundled/minilm", 64)
    assert found["limit"] == 512
    assert found["suggestion"]["max_length"] == 512
    assert "512 would cut 100.0 %, the most this model takes." in found["suggestion"]["sentence"]
    assert tokens(str(path), TEXT, "bundled/minilm", 512)["suggestion"] is None


def test_completions_carry_the_loss(home, tmp_path):
    path = tmp_path / "qa.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"What is {i}?", "completion": f"It is café {i}."}) + "\n" for i in range(30)))
    found = tokens(str(path), "causal_lm", "bundled/lm", 64, rows=2)
    assert (found["scores"], found["suggestion"], found["truncation"]["share"]) == ("tokens", None, 0)
    pieces = found["rows"][0]["pieces"]
    text = "".join(p["text"] for p in pieces if p["loss"] and not p["special"])
    assert text.startswith("It is")
    assert "What" in "".join(p["text"] for p in pieces if not p["loss"])
    assert pieces[-1]["special"]
    assert pieces[-1]["loss"]


def test_images_have_a_size_and_no_tokens(home):
    found = tokens({"source": "bundled/digits", "limit": 20}, "image_classification", "bundled/vit", 128)
    assert (found["rows"], found["truncation"], found["suggestion"], found["limit"]) == ([], None, None, None)
    assert (found["image"]["width"], found["image"]["channels"]) == (16, 3)
    assert found["image"]["sentence"].startswith("every image is resized to 16 x 16 RGB pixels")


def test_several_entries_are_seen_together(home, long, table):
    found = tokens([long, {"source": str(table), "id": "other"}], TEXT, {"source": "bundled/minilm"}, 16)
    assert found["truncation"]["of"] == 196 + 84


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_length": 2}, "max_length must be a whole number from 4"),
        ({"model": {"sauce": "x"}}, "spec.model.source is required but missing"),
        ({"model": "bundled/minilmm"}, "closest: minilm"),
        ({"data": []}, "data must name at least one source"),
        ({"data": {"source": "bundled/docstrings", "test": 2}}, "between 0 and 1"),
        ({"task": "classification"}, "text_classification"),
        ({"model": "bundled/vit"}, "the base model bundled/vit cannot read this data"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(home, long, change, words):
    asked = {"data": long, "task": TEXT, "model": "bundled/minilm", "max_length": 16, **change}
    with pytest.raises(WorkbenchError) as caught:
        tokens(**asked)
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")


def test_the_engine_answers_for_the_screens(home, long, monkeypatch):
    asked = []
    monkeypatch.setattr(engine, "ask", lambda call, args: asked.append((call, args)))
    data.ask_tokens(long, TEXT, "bundled/minilm", 16, rows=2)
    ((call, args),) = asked
    module, _, function = engine.CALLS[call].partition(":")
    assert (module, function) == (tokens.__module__, tokens.__name__)
    assert tokens(**json.loads(json.dumps(args)))["truncation"]["at_max_length"] == 16


def test_examined(home, spec):
    found = data.examined(parse_spec(spec))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    (entry,) = found["entries"]
    assert entry["mapping"] == {"text": "text", "label": "label"}
    assert entry["unused"] == ["score"]
    assert entry["counts"]["train"] == 84
    assert found["problem"] is None
    assert found["truncation"]["at_max_length"] == 16


def test_examined_with_a_problem_still_says_what_it_knows(home, spec, tmp_path):
    path = tmp_path / "odd.csv"
    path.write_text("words,stars\n" + "".join(f"a text of some length {i},{i % 3}\n" for i in range(20)))
    found = data.examined(parse_spec({**spec, "data": {"source": str(path)}}))
    assert "column for text" in found["problem"]
    assert found["entries"][0]["proposed"] == {"text": "words", "label": "stars"}
    assert found["truncation"] is None
