"""Starting points from facts, method sizes, and the filter of the catalogue."""

import json

import pytest

from workbench.core.errors import WorkbenchError
from workbench.core.spec import parse_spec
from workbench.jobs import engine
from workbench.services import catalogue, plans, shares, suggestions

KNOWN = {"rows": 700, "max_length": 136}


@pytest.fixture(scope="module")
def home_of_all(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _home(home_of_all, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(home_of_all))


def sizes(model="bundled/minilm", task="text_classification"):
    return shares.shares(model, task)


def made(model="bundled/minilm", task="text_classification", known=KNOWN):
    found = sizes(model, task)
    return {s["name"]: s for s in suggestions.suggest(catalogue.catalogue(), found["shares"], found["base_params"], known)}


# --- sizes --------------------------------------------------------------------------------------------------------


def test_shares_are_the_plans_counts():
    found = sizes()
    names = [m["key"] for m in catalogue.catalogue()]
    assert set(found["shares"]) == set(names)
    spec = {"name": "x", "model": "bundled/minilm", "task": "text_classification", "data": {"source": "bundled/docstrings"}}
    spec |= {"methods": ["lora", "houlsby_adapter", "full", "head_only"]}
    for one in plans.plan(parse_spec(spec))["methods"]:
        assert found["shares"][one["method"]] * found["base_params"] == pytest.approx(one["trainable_params"])
    assert found["shares"]["head_only"] == 0
    assert found["shares"]["full"] == 1


def test_what_does_not_fit_has_no_share_but_a_reason():
    found = sizes("bundled/vit", "image_classification")
    assert {k for k, v in found["shares"].items() if v is None} == set(found["problems"])
    assert found["shares"]["prefix_tuning"] is None
    assert found["problems"]["loreft"].endswith("choose another task or method.")
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_they_are_counted_once(monkeypatch):
    first = sizes()
    monkeypatch.setattr(shares, "_counted", lambda *_: pytest.fail("counted although nothing changed"))
    assert sizes() == first


def test_the_engine_knows_the_call(monkeypatch):
    asked = []
    monkeypatch.setattr(engine, "ask", lambda call, args: asked.append((call, args)) or shares.shares(**args))
    names = [s["name"] for s in suggestions.ask("text_classification", "bundled/minilm", KNOWN)]
    assert names == list(made())
    assert asked == [("shares", {"model": "bundled/minilm", "task": "text_classification"})]
    assert engine.CALLS["shares"] == "workbench.services.shares:shares"


def test_a_model_of_another_kind_is_one_sentence():
    with pytest.raises(WorkbenchError, match=r"^the base model bundled/vit does not fit the task text_classification: .*\.$"):
        sizes("bundled/vit")


# --- starting points ----------------------------------------------------------------------------------------------


MODELS = [
    ("bundled/minilm", "text_classification", "bundled/docstrings"),
    ("bundled/lm", "causal_lm", "bundled/docstrings"),
    ("bundled/vit", "image_classification", "bundled/digits"),
]


@pytest.mark.parametrize(("model", "task", "source"), MODELS)
def test_every_starting_point_can_be_planned(model, task, source):
    found = made(model, task, {"rows": 100, "max_length": None if "vit" in model else 64})
    assert 3 <= len(found) <= 4
    for one in found.values():
        spec = {"name": one["name"], "model": model, "task": task, "data": {"source": source, "limit": 50},
                "methods": one["methods"], "training": one["training"], "seeds": one["seeds"]}  # fmt: skip
        assert plans.plan(parse_spec(spec))["problems"] == []
        assert one["why"][-1] in ".?"


def test_each_is_what_it_says():
    found, entries = made(), {m["key"]: m for m in catalogue.catalogue()}
    share = sizes()["shares"]
    assert found["quick-look"]["methods"] == ["lora", "head_only"]
    assert found["quick-look"]["training"] == {"max_length": 136, "max_steps": 100}
    assert found["quick-look"]["seeds"] == [0]
    honest = [m for m in found["honest-comparison"]["methods"] if m != "head_only"]
    assert len(honest) == len({entries[m]["kind"] for m in honest}) == 5
    assert found["honest-comparison"]["seeds"] == [0, 1, 2]
    for one in honest[1:]:
        near = [k for k, e in entries.items() if e["kind"] == entries[one]["kind"] and not e["preset_of"] and share[k]]
        assert one == min(near, key=lambda k: max(share[k] / share["lora"], share["lora"] / share[k]))
    tiny = [m for m in found["tiny-adapters"]["methods"] if m != "head_only"]
    assert 2 <= len(tiny) <= 6
    assert all(0 < share[m] < 0.001 for m in tiny)
    merging = found["everything-that-merges"]["methods"]
    wanted = {k for k, e in entries.items() if e["mergeable"] and not e["preset_of"] and share[k]} | {"head_only"}
    assert set(merging) == wanted


def test_few_rows_get_more_epochs_and_many_one():
    assert made(known={"rows": 160, "max_length": 128})["honest-comparison"]["training"] == {"epochs": 10}
    assert made(known={"rows": 1600, "max_length": 128})["honest-comparison"]["training"] == {"epochs": 3}
    assert made(known={"rows": 100_000, "max_length": None})["honest-comparison"]["training"] == {}


def test_what_no_method_fits_is_left_out():
    entries = catalogue.catalogue()
    assert suggestions.suggest(entries, {}, 10, KNOWN) == []
    only = suggestions.suggest(entries, {"dora": 0.1, "ia3": 0.2}, 1000, KNOWN)
    assert [(s["name"], s["methods"]) for s in only] == [
        ("quick-look", ["dora", "head_only"]),
        ("everything-that-merges", ["dora", "ia3", "head_only"]),
    ]


def test_facts_take_the_length_that_leaves_most_rows_whole():
    preview, cut = {"counts": {"train": 70}}, {"p95": 131}
    assert suggestions.facts(preview, {"truncation": cut, "limit": 512}) == {"rows": 70, "max_length": 136}
    assert suggestions.facts(preview, {"truncation": cut, "limit": 100})["max_length"] == 100
    assert suggestions.facts(preview, {"truncation": {"p95": 3}, "limit": None})["max_length"] == 16
    assert suggestions.facts(preview, {"truncation": None, "limit": None})["max_length"] is None
    assert suggestions.facts({"counts": {}}, None) == {"rows": 0, "max_length": None}


# --- the filter ---------------------------------------------------------------------------------------------------


def keys(**wanted):
    return [m["key"] for m in catalogue.filtered(catalogue.catalogue(), **wanted)]


def test_no_condition_keeps_all_in_order():
    assert keys() == [m["key"] for m in catalogue.catalogue()]


def test_conditions_are_met_together():
    entries, share = {m["key"]: m for m in catalogue.catalogue()}, sizes()["shares"]
    assert {entries[k]["mergeable"] for k in keys(mergeable=True)} == {True}
    assert {entries[k]["mergeable"] for k in keys(mergeable=False)} == {False}
    assert {entries[k]["engine"] for k in keys(engine="peft")} == {"peft"}
    assert {entries[k]["family"] for k in keys(families=("prompt", "side"))} == {"prompt", "side"}
    assert {entries[k]["kind"] for k in keys(kinds=["token"])} == {"token"}
    assert {entries[k]["paper_id"] is None for k in keys(has_paper=False)} == {True}
    small = keys(max_share=0.001, shares=share, mergeable=True, engine="native")
    assert small
    assert all(share[k] < 0.001 and entries[k]["mergeable"] and entries[k]["engine"] == "native" for k in small)
    assert set(keys(mergeable=True)) | set(keys(mergeable=False)) == set(entries)


def test_what_cannot_be_used_is_below_no_share():
    share = sizes("bundled/vit", "image_classification")["shares"]
    assert "prefix_tuning" not in keys(max_share=10.0, shares=share)
    assert keys(max_share=10.0) == []


def test_every_word_must_occur_somewhere():
    assert "lora" in keys(text="LoRA hu")
    assert keys(text="houlsby adapter")[0] in ("bottleneck", "houlsby_adapter")
    assert keys(text="xyzzy") == []
