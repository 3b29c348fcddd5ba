"""Build beyond the golden path: starting from a spec, YAML, the doctor, the token view, filters, suggestions and checks."""

import pytest
import yaml
from streamlit.testing.v1 import AppTest

from tests.pages.test_pages import told
from workbench.core.spec import parse_spec
from workbench.services import catalogue, clone, matching, papers, plans, results, shares
from workbench.ui import filling

WHOLE = {
    "name": "mine",
    "model": "bundled/lm",
    "task": "causal_lm",
    "data": {"source": "bundled/docstrings", "columns": {"text": "review"}, "test": 0.3, "limit": 300},
    "methods": [
        "head_only",
        {"method": "lora", "rank": 4, "roles": ["attn.q", "attn.v"]},
        {"method": "lora", "rank": 16, "modifiers": [{"modifier": "sparse", "keep": 0.25}]},
        {"method": "rslora", "alpha": 4.0},
        {"method": "full", "recipe": {"recipe": "lt_sft", "keep": 0.05}},
    ],
    "training": {"epochs": 2.0, "learning_rate": [0.001, 0.01], "max_length": 64, "precision": "fp32"},
    "seeds": [3, 4],
    "device": "cpu",
    "exclusive": False,
    "on_error": "hold",
    "baseline": False,
}


def written(at):
    return yaml.safe_load(next(c.value for c in at.code if c.language == "yaml"))


@pytest.fixture
def cloned(home, answers, cold, monkeypatch):
    """Opens Build with `?clone=` of a spec."""

    def opened(spec):
        monkeypatch.setattr(results, "find_experiment", lambda name: name)
        monkeypatch.setattr(clone, "clone", lambda name: spec)
        return cold("build", clone="mine-abc123")

    return opened


def test_a_cloned_spec_fills_every_field_and_comes_out_the_same(cloned):
    at = cloned(WHOLE)
    assert not at.exception
    assert told(at) == []
    assert written(at) == WHOLE
    assert any("Filled from mine-abc123" in c.value.replace("\\", "") for c in at.caption)
    at.number_input(key="build.method.lora..0.config.rank").set_value(2)
    at.run()
    assert written(at)["methods"][1]["rank"] == 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"models": {"teacher": "bundled/minilm"}}, "no field for models"),
        ({"data": [{"source": "a.csv"}, {"source": "b.csv"}]}, "one data source"),
        ({"methods": [{"method": "lora", "label": "small"}]}, "no field for label"),
        ({"methods": [{"method": "lora", "preset": "rslora"}, "lora"]}, "one preset"),
        ({"model": {"source": "bundled/lm", "revision": "main"}}, "by its name alone"),
    ],
)
def test_what_the_form_cannot_hold_is_shown_as_yaml(change, why, cloned):
    spec = {**WHOLE, **change}
    at = cloned(spec)
    assert not at.exception
    assert at.segmented_control(key="build.mode").value == "YAML"
    assert yaml.safe_load(at.text_area(key="build.text").value) == spec
    assert any(why in c.value for c in at.caption)


def test_the_form_becomes_yaml_and_the_yaml_the_form(home, answers, cold):
    at = cold("build")
    at.text_input(key="build.name").set_value("first").run()
    at.segmented_control(key="build.mode").set_value("YAML").run()
    text = at.text_area(key="build.text").value
    assert "name: first" in text
    at.text_area(key="build.text").set_value(text.replace("first", "second")).run()
    assert written(at)["name"] == "second"
    at.segmented_control(key="build.mode").set_value("Form").run()
    assert at.text_input(key="build.name").value == "second"
    assert written(at)["name"] == "second"


def test_bad_yaml_is_one_sentence_and_stays(home, answers, cold):
    at = cold("build")
    at.segmented_control(key="build.mode").set_value("YAML").run()
    at.text_area(key="build.text").set_value("name: x\nmodel: bundled/lm\ntsk: y").run()
    assert len(told(at)) == 1
    at.segmented_control(key="build.mode").set_value("Form").run()
    assert not at.exception
    assert at.segmented_control(key="build.mode").value == "YAML"
    assert "tsk" in at.text_area(key="build.text").value


def test_the_doctor_speaks_and_markup_in_the_data_is_inert(home, answers, cold):
    at = cold("build")
    assert any("different labels" in m.value for m in at.markdown)
    assert any("\\<b\\>" in c.value for c in at.caption)


def test_what_the_model_sees_is_escaped_and_marked(home, answers):
    def page():
        from tests.pages import planting
        from workbench.ui import looking

        looking._seen(planting.tokens_of({}, "t", "m", 64))

    at = AppTest.from_function(page).run()
    shown = next(h.proto.body for h in at.main.children.values() if h.type == "html" and "tokens" in h.proto.body)
    assert '<span class="special">[CLS]</span>' in shown
    assert "&lt;i&gt;fine" in shown
    assert '<span class="cut">grim</span>' in shown
    assert "25 %" in at.markdown[0].value


def test_a_filter_offers_less_and_never_drops_what_is_chosen(home, answers, cold, monkeypatch):
    monkeypatch.setattr(shares, "ask", lambda model, task: {"shares": {"ia3": 1e-4}, "base_params": 10**6, "problems": {}})
    at = cold("build")
    key = "build.methods.text_classification"
    every = len(at.multiselect(key=key).options)
    at.toggle(key="build.filter.small").set_value(True).run()
    assert set(at.multiselect(key=key).options) == {"ia3", "lora", "head_only"}
    assert every == len(catalogue.everything()["methods"])
    assert at.multiselect(key=key).value == ["lora", "head_only"]


def test_a_starting_point_fills_methods_training_and_seeds(home, answers):
    def page():
        import streamlit as st

        from workbench.services import catalogue
        from workbench.ui import filling

        if st.button("go"):
            filling.use(
                {"methods": ["ia3"], "training": {"max_steps": 100}, "seeds": [0]}, "text_classification", catalogue.everything()
            )
        st.session_state["found"] = {k: v for k, v in st.session_state.items() if str(k).startswith("build.")}

    at = AppTest.from_function(page).run()
    at.button[0].click().run()
    assert at.session_state["found"] == {
        "build.seeds": "0", "build.training.max_steps": 100, "build.methods.text_classification": ["ia3"],
        "build.method.ia3.copies": 1,
    }  # fmt: skip


def test_a_dry_run_shows_measured_beside_predicted(home, answers, cold, monkeypatch):
    asked = []
    answer = {
        "steps": 3, "measured": {"peak_memory_bytes": 3e8, "train_seconds": 42.0}, "notes": ["Another training was running."],
        "predicted": {"peak_memory_bytes": 2e8, "train_seconds": 30.0},
    }  # fmt: skip
    monkeypatch.setattr(plans, "ask_dry_run", lambda spec, label: asked.append(label) or answer)
    at = cold("build")
    at.selectbox(key="build_dry").set_value("head_only").run()
    at.button(key="build_measure").click().run()
    assert asked == ["head_only"]
    assert any("300 MB** measured, 200 MB predicted" in m.value for m in at.markdown)


def test_matched_settings_are_shown_and_taken(home, answers, cold, monkeypatch):
    def solved(spec, to, by):
        entry = {"label": "lora", "field": "rank", "value": 3, "trainable_params": 27_648, "train_seconds": 9.0, "reason": ""}
        return {
            "spec": {**spec, "methods": [{"method": "lora", "rank": 3}]},
            "notes": ["Equal to head_only."],
            "entries": [entry],
        }

    monkeypatch.setattr(matching, "ask_matched", solved)
    at = cold("build")
    at.button(key="build_solve").click().run()
    assert any("rank = 3; 27,648 parameters" in c.value.replace("\\", "") for c in at.caption)
    at.button(key="build_use").click().run()
    assert not at.exception
    assert written(at)["methods"] == [{"method": "lora", "rank": 3}]


def test_an_unknown_experiment_to_clone_is_one_sentence(home, answers, cold):
    at = cold("build", clone="nobody")
    assert not at.exception
    assert any("nobody" in sentence for sentence in told(at))


def test_every_method_of_the_catalogue_can_be_cloned(catalogue_file):
    """The form holds any method at default settings, so that a suggestion never ends in YAML."""
    found = catalogue.everything()
    spec = {**WHOLE, "methods": [one["key"] for one in found["methods"]]}
    assert filling._beyond(spec) == ""
    assert set(filling.methods(spec["methods"], "causal_lm", found)["build.methods.causal_lm"]) == set(spec["methods"])


def test_a_paper_of_one_step_fills_the_form(home, answers, cold):
    at = cold("build", paper="soka")
    assert not at.exception
    assert told(at) == []
    spec = papers.spec("soka")
    assert written(at)["methods"] == [spec["methods"][0], "lora"]  # rank 8 is LoRA's own default
    assert parse_spec(written(at)).training == parse_spec(spec).training
    assert any("Filled from soka" in c.value for c in at.caption)


@pytest.mark.parametrize(("key", "why"), [("dylora", "several steps"), ("nobody", "o paper is called 'nobody'")])
def test_a_paper_that_no_form_holds_is_one_sentence(key, why, home, answers, cold):
    at = cold("build", paper=key)
    assert not at.exception
    (sentence,) = told(at)
    assert why in sentence
