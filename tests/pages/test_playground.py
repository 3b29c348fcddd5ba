"""The playground's screen: what it offers, what it asks, and how answers are told apart."""

import json

import pytest

from tests.pages import planting
from workbench.core.errors import WorkbenchError
from workbench.core.paths import home as home_folder
from workbench.services import playing
from workbench.ui import answering

HEAD, LORA = "head_only-s0-aaaa0000", "lora-s0-aaaa0000"


def told(at):
    """The sentences in red."""
    return [e.value.replace("\\", "") for e in at.error]


def read(at):
    """All Markdown and captions, unescaped."""
    return "\n".join(one.value for one in [*at.markdown, *at.caption]).replace("\\", "")


def adapter(name, task="text_classification", base="bundled/minilm", **more):
    """An imported adapter of the planted home."""
    folder = home_folder() / "adapters" / name
    folder.mkdir(parents=True)
    meta = {"method": "lora", "task": task, "base": {"source": base}, **more}
    (folder / "workbench_adapter.json").write_text(json.dumps(meta))
    return name


def test_without_adapters_it_leads_to_build(home, cold):
    at = cold("playground")
    assert "There is no adapter to try yet" in read(at)
    assert "/build" in read(at)
    assert len(at.button) == 0


def test_an_untouched_page_compares_the_newest_adapters_and_is_a_link(jobs, answers, cold):
    at = cold("playground")
    chosen = at.multiselect[0].value
    assert len(chosen) == 3
    assert chosen[0].startswith("head_only")
    assert at.query_params["adapter"] == chosen
    again = cold("playground", adapter=[LORA, HEAD])
    assert again.multiselect[0].value == [LORA, HEAD]


def test_an_example_is_one_click_away_and_answers_stand_side_by_side(jobs, answers, cold, monkeypatch):
    sent = []
    monkeypatch.setattr(playing, "ask_play", lambda **given: sent.append(given) or planting.answer_of(**given))
    at = cold("playground", adapter=[HEAD, LORA])
    at.button(key=f"playground.example.{HEAD}.2").click().run()
    assert at.text_area(key="playground.text").value == "fine and warm 2"
    at.button(key="playground.ask").click().run()
    assert not at.exception
    assert sent == [{"references": [HEAD, LORA], "inputs": {"text": "fine and warm 2"}, "settings": {}}]
    text = read(at)
    assert "True label: **good**" in text
    assert "**good**: base · **bad**: lora" in text
    assert "**Base with a trained head**" in text
    assert ":orange-badge[differs from base] :red-badge[wrong]" in text
    assert text.count("12.3 ms, median of 5 passes") == 2  # head only is the base's own column
    assert "Latency: measured nowhere." in text
    assert [s.value for s in at.subheader] == ["good", "bad"]
    at.text_area(key="playground.text").set_value("something else").run()
    assert "have changed" in read(at)
    assert len(at.subheader) == 0


def test_more_examples_follow(jobs, answers, cold):
    at = cold("playground", adapter=LORA)
    shown = [b.key for b in at.button if b.key.startswith("playground.example")]
    at.button(key="playground.more").click().run()
    assert [b.key for b in at.button if b.key.startswith("playground.example")] != shown


def test_what_goes_wrong_is_one_sentence(jobs, answers, cold, monkeypatch):
    def refuse(*_, **__):
        raise WorkbenchError("the base must be here; it is gone.")

    monkeypatch.setattr(playing, "ask_play", refuse)
    monkeypatch.setattr(playing, "ask_examples", refuse)
    at = cold("playground", adapter=["lroa", LORA, adapter("other", base="bundled/vit", task="image_classification")])
    assert told(at)[0].startswith("No adapter that can be tried is called 'lroa'")
    assert told(at)[1].startswith("Adapters side by side must share one base model and one task; got lora-s0-aaaa0000 on")
    assert at.multiselect[0].value == [LORA]
    assert "No examples: the base must be here; it is gone." in read(at)
    at.button(key="playground.ask").click().run()
    assert "The base must be here; it is gone." in told(at)
    assert not at.exception


def test_each_kind_of_input_has_its_own_form(home, answers, cold, monkeypatch):
    sent = []
    monkeypatch.setattr(playing, "ask_play", lambda **given: sent.append(given) or planting.answer_of(**given))
    adapter("writer", "causal_lm", "bundled/lm", columns={"text": "text"})
    adapter("talker", "causal_lm", "org/chat", columns={"messages": "messages"})
    adapter("pairs", base="org/pairs", columns={"text": "a", "text_pair": "b", "label": "c"})
    adapter("eyes", "image_classification", "bundled/vit", columns={"image": "image", "label": "label"})
    at = cold("playground", adapter="writer")
    at.text_area(key="playground.prompt").set_value("def f")
    at.number_input(key="playground.longest").set_value(7).run()
    at.button(key="playground.ask").click().run()
    at = cold("playground", adapter="talker")
    at.text_area(key="playground.messages").set_value("hello").run()
    at.toggle(key="playground.greedy").set_value(False).run()
    at.button(key="playground.ask").click().run()
    at = cold("playground", adapter="pairs")
    at.text_area(key="playground.pair").set_value("one")
    at.text_area(key="playground.second").set_value("two").run()
    at.button(key="playground.ask").click().run()
    assert [s["inputs"] for s in sent] == [
        {"prompt": "def f"},
        {"messages": [{"role": "user", "content": "hello"}]},
        {"text": "one", "text_pair": "two"},
    ]
    assert [s["settings"] for s in sent] == [
        {"max_new_tokens": 7, "greedy": True},
        {"max_new_tokens": 48, "greedy": False},
        {},
    ]


def test_a_picture_of_the_data_is_one_click_away(home, answers, cold, monkeypatch):
    pixel = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    rows = [{"id": 4, "inputs": {"image": pixel}, "answer": "7", "picture": pixel}]
    sent = []
    monkeypatch.setattr(playing, "ask_examples", lambda reference: rows)
    monkeypatch.setattr(playing, "ask_play", lambda **given: sent.append(given["inputs"]) or planting.answer_of(**given))
    adapter("eyes", "image_classification", "bundled/vit", columns={"image": "image", "label": "label"})
    at = cold("playground")
    assert "No image yet" in read(at)
    at.button(key="playground.example.4").click().run()
    at.button(key="playground.ask").click().run()
    assert not at.exception
    assert sent == [{"image": pixel}]
    assert "True label: **7**" in read(at)


def test_a_chat_of_the_data_keeps_its_earlier_turns(home, answers, cold, monkeypatch):
    turns = [{"role": r, "content": c} for r, c in (("user", "hi"), ("assistant", "hello"), ("user", "and now?"))]
    monkeypatch.setattr(
        playing, "ask_examples", lambda _: [{"id": 1, "inputs": {"messages": turns}, "answer": "now", "picture": ""}]
    )
    sent = []
    monkeypatch.setattr(playing, "ask_play", lambda **given: sent.append(given["inputs"]) or planting.answer_of(**given))
    adapter("talker", "causal_lm", "org/chat", columns={"messages": "messages"})
    at = cold("playground")
    at.button(key="playground.example.talker.1").click().run()
    assert [m.name for m in at.chat_message] == ["user", "assistant"]
    at.button(key="playground.ask").click().run()
    assert sent == [{"messages": turns}]
    at.button(key="playground.clear").click().run()
    assert len(at.chat_message) == 0


def test_a_file_is_predicted_with_one_of_them(jobs, answers, cold):
    at = cold("playground", adapter=[HEAD, LORA])
    assert at.expander[0].label == "Predict on a file"
    assert at.button(key="adapters.predict").disabled
    names = at.selectbox(key=f"playground.with.{HEAD},{LORA}").options
    assert names == [HEAD, LORA]


# --- in words, without drawing


def written(reference, output, **more):
    return planting.column(reference, output=output, **more) | {"prediction": output, "probabilities": [], "tokens": 3}


def test_differences_are_said_in_words():
    called = {"base": "base", "a": "a*b", "c": "c"}
    same = [planting.column(name) for name in called]
    assert answering.in_words(same, called) == "All 3 columns say the same."
    assert answering.in_words(same[:1], called) == ""
    texts = [written("base", "x y"), written("a", "x z"), written("c", "x y")]
    assert answering.in_words(texts, called) == r"a\*b differs from base."
    assert answering.in_words([texts[1], texts[0], texts[2]], called) == r"base, c differ from a\*b."


@pytest.mark.parametrize(
    ("text", "other", "parts"),
    [
        ("one two three", "one two four", ("one two", " three")),
        ("one two", "one two three", ("one two", "")),
        ("one\n  two", "one two", ("one\n  two", "")),
        ("", "one", ("", "")),
        ("two", "one", ("", "two")),
    ],
)
def test_texts_are_parted_where_they_begin_to_differ(text, other, parts):
    assert answering.parted(text, other) == parts


def test_all_columns_show_the_same_labels_and_the_right_one():
    def chances(**p):
        return {"probabilities": [{"label": k, "p": v} for k, v in p.items()]}

    columns = [chances(a=0.6, b=0.3, c=0.1), chances(c=0.5, a=0.4, b=0.1)]
    assert answering.common_labels(columns, None, 2) == ["a", "c"]
    assert answering.common_labels(columns, "b", 2) == ["a", "b"]
    assert answering.common_labels(columns, "strange", 2) == ["a", "c"]


def test_columns_are_called_by_label_or_by_reference():
    columns = [planting.column(name) for name in ("base", "lora-1", "lora-2", "ia3-1")]
    assert answering.names(columns) == {"base": "base", "lora-1": "lora-1", "lora-2": "lora-2", "ia3-1": "ia3"}
