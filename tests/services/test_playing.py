"""The playground's questions before they reach the engine."""

import json

import pytest

from workbench.core import paths
from workbench.core.errors import WorkbenchError
from workbench.jobs import engine
from workbench.services import adapters, playing


def entry(name, task="text_classification", base="bundled/minilm", **meta):
    folder = paths.home() / "adapters" / name
    folder.mkdir(parents=True)
    (folder / adapters.META).write_text(json.dumps({"method": "lora", "task": task, "base": {"source": base}, **meta}))
    return next(one for one in adapters.adapters() if one["reference"] == name)


def test_adapters_are_grouped_by_base_and_task(home):
    one, two, three = entry("a"), entry("b", "causal_lm", "bundled/lm"), entry("c")
    strange = entry("d", "point_clouds")
    assert playing.groups([one, two, three, strange]) == {
        ("bundled/minilm", "text_classification"): [one, three],
        ("bundled/lm", "causal_lm"): [two],
    }


def test_the_form_follows_what_the_adapters_were_trained_on(home):
    plain, pair = (
        entry("a", columns={"text": "t", "label": "l"}),
        entry("b", columns={"text": "t", "text_pair": "u", "label": "l"}),
    )
    assert playing.kind([plain]) == "text"
    assert playing.kind([plain, pair]) == "pair"
    assert playing.kind([entry("c", "causal_lm", columns={"text": "t"})]) == "prompt"
    assert playing.kind([entry("d", "causal_lm", columns={"messages": "m"})]) == "messages"
    assert playing.kind([entry("e", "image_classification")]) == "image"


@pytest.mark.parametrize(
    ("references", "settings", "sentence"),
    [
        ([], {}, r"^the playground takes 1 to 4 different adapters; got 0\.$"),
        (list("abcde"), {}, "got 5"),
        (["a", "a"], {}, "got 2, some of them twice"),
        (["a"], {"max_new_tokens": 0}, r"^settings\.max_new_tokens must be at least 1; got 0\.$"),
        (["a"], {"max_new_tokens": True}, "must be a number"),
        (["a"], {"temperature": 1}, "temperature is not a known key"),
    ],
)
def test_bad_questions_never_reach_the_engine(home, monkeypatch, references, settings, sentence):
    monkeypatch.setattr(engine, "ask", lambda *_, **__: pytest.fail("the engine was asked"))
    with pytest.raises(WorkbenchError, match=sentence):
        playing.ask_play(references, {"text": "x"}, settings)


def test_an_unknown_adapter_is_one_sentence(home):
    with pytest.raises(WorkbenchError, match="no job is called 'nobody'"):
        playing.play_request(["nobody"], {"text": "x"}, {})


def test_the_engine_knows_the_calls(home):
    assert engine.CALLS["play"] == "workbench.services.playing:play_request"
    assert engine.CALLS["play_examples"] == "workbench.services.playing:examples_request"
