"""The spec: short forms, labels, canonical form, and one sentence for what is wrong."""

import pytest

from workbench.core import safe_yaml
from workbench.core.errors import WorkbenchError, unknown
from workbench.core.paths import inside, safe_name
from workbench.core.spec import canonical, digest, load_spec, parse_spec, with_baseline

GOOD = {
    "name": "first",
    "model": "bundled/minilm",
    "task": "text_classification",
    "data": "bundled/docstrings",
    "methods": ["lora", {"method": "lora", "rank": 4}, {"method": "full", "recipe": "lt_sft", "modifiers": ["sparse"]}],
    "seeds": [0, 1],
}


def test_short_forms_and_labels():
    spec = parse_spec(GOOD)
    assert [m.label for m in spec.methods] == ["lora", "lora#2", "full+sparse@lt_sft"]
    assert spec.methods[1].config == {"rank": 4}
    assert spec.methods[2].recipe == {"recipe": "lt_sft"}
    assert spec.model.source == "bundled/minilm"


def test_a_start_is_a_reserved_key_and_may_be_a_jobs_number():
    one, two = parse_spec({**GOOD, "methods": [{"method": "lora", "init_from": 7, "rank": 2}, {"method": "lora"}]}).methods
    assert (one.init_from, one.config, two.init_from) == ("7", {"rank": 2}, None)


def test_canonical_form_is_stable_and_reads_back():
    spec = parse_spec(GOOD)
    again = parse_spec(safe_yaml.loads(safe_yaml.dumps(spec.model_dump(mode="json"))))
    assert again == spec
    assert digest(again) == digest(spec)
    assert canonical(spec) != canonical(parse_spec({**GOOD, "seeds": [1, 0]}))


BAD = {
    "unknown key": ({"nmae": 1}, "closest: name"),
    "unknown training key": ({"training": {"epoch": 1}}, "closest: epochs"),
    "epochs 0": ({"training": {"epochs": 0}}, "above 0"),
    "batch 0": ({"training": {"batch_size": 0}}, "at least 1"),
    "rate negative": ({"training": {"learning_rate": -1}}, "above 0"),
    "rate nan": ({"training": {"learning_rate": float("nan")}}, "learning_rate"),
    "rate word": ({"training": {"learning_rate": "fast"}}, "learning_rate"),
    "no rates": ({"training": {"learning_rate": []}}, "must hold 1 to 50 of them; got 0"),
    "too many rates": ({"training": {"learning_rate": [i / 100 for i in range(1, 52)]}}, "got 51"),
    "twin rates": ({"training": {"learning_rate": [1e-3, 0.001]}}, "must be different"),
    "auto among rates": ({"training": {"learning_rate": [1e-3, "auto"]}}, "numbers only; got 'auto'"),
    "a bad rate among rates": ({"training": {"learning_rate": [1e-3, 0]}}, "above 0"),
    "no seeds": ({"seeds": []}, "seeds"),
    "twin seeds": ({"seeds": [1, 1]}, "different"),
    "negative seed": ({"seeds": [-1]}, "whole numbers"),
    "no methods": ({"methods": []}, "methods"),
    "method number": ({"methods": [3]}, "name or a mapping"),
    "method without name": ({"methods": [{"rank": 3}]}, "required but missing"),
    "twin labels": ({"methods": [{"method": "lora", "label": "a"}, {"method": "lora", "label": "a"}]}, "unique"),
    "name with path": ({"name": "../x"}, "letters"),
    "test 1.5": ({"data": {"source": "x", "test": 1.5}}, "between 0 and 1"),
    "fractions": ({"data": {"source": "x", "test": 0.5, "validation": 0.5}}, "less than 1"),
    "data key": ({"data": {"source": "x", "tets": 0.1}}, "closest: test"),
    "start a list": ({"methods": [{"method": "lora", "init_from": ["a"]}]}, "init_from"),
    "start true": ({"methods": [{"method": "lora", "init_from": True}]}, "init_from"),
    "task missing": ({"task": None}, "task"),
    "too many runs": ({"seeds": list(range(1000))}, "at most 2000 runs"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_specs_get_one_sentence(name):
    change, word = BAD[name]
    with pytest.raises(WorkbenchError) as caught:
        parse_spec({**GOOD, **change})
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_of_rates_is_a_search_and_a_list_of_one_is_that_rate():
    def rate(value):
        return parse_spec({**GOOD, "training": {"learning_rate": value}}).training.learning_rate

    assert rate([1e-3, 1e-4]) == (1e-3, 1e-4)
    assert rate([1e-3]) == 1e-3
    assert rate("auto") == "auto"


def test_relative_paths_are_taken_from_the_files_folder(tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    (tmp_path / "spec.yaml").write_text(safe_yaml.dumps({**GOOD, "data": {"source": "rows.csv"}}))
    assert load_spec(tmp_path / "spec.yaml").data.source == str(tmp_path / "rows.csv")


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_unreadable_specs_get_one_sentence(tmp_path, name):
    with pytest.raises(WorkbenchError):
        load_spec(tmp_path / name)


def test_unknown_names_get_the_closest():
    assert "closest: lora" in str(unknown("method", "lorra", ["lora", "ia3", "full"]))


@pytest.mark.parametrize("name", ["..", "../x", "/etc/passwd", "a/../../b", "x\0y", "."])
def test_names_never_lead_out_of_their_folder(tmp_path, name):
    with pytest.raises((WorkbenchError, ValueError)):
        inside(tmp_path / "root", name)


@pytest.mark.parametrize("name", ["", ".hidden", "a b", "a/b", "x" * 200, "a.", "-x"])
def test_unsafe_names_are_refused(name):
    with pytest.raises(WorkbenchError):
        safe_name(name)


def test_a_baseline_row_stands_beside_the_methods():
    assert [m.label for m in with_baseline(parse_spec(GOOD)).methods][-1] == "head_only"
    own = parse_spec({**GOOD, "methods": ["lora", "head_only"]})
    assert with_baseline(own) == own
    without = parse_spec({**GOOD, "baseline": False})
    assert with_baseline(without) == without
