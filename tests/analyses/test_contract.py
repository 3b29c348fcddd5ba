"""Every analysis can be listed, asked for with options, and refuses what does not fit in one sentence."""

import pytest

from tests.analyses.conftest import plain
from workbench import analyses
from workbench.analyses.contract import Result, analysis, chart, table
from workbench.core.errors import WorkbenchError
from workbench.jobs import wire

NAMES = ["efficiency", "forgetting", "latency", "movement", "shrinking", "survey"]


def test_they_are_found_by_walking_the_folder():
    assert analyses.names() == NAMES
    with pytest.raises(WorkbenchError, match="no analysis is called 'forgeting'; closest: forgetting"):
        analyses.find("forgeting")


@pytest.mark.parametrize("one", analyses.listing(), ids=lambda one: one["key"])
def test_each_says_what_it_is_and_every_option_is_described_and_bounded(one):
    assert one["title"]
    assert one["text"]
    assert plain(one) == one
    for name, option in one["options"]["properties"].items() if one["options"].get("properties") else ():
        assert option["description"], name
        kinds = [option, *option.get("anyOf", ())]
        bounded = {"minimum", "maximum", "exclusiveMaximum", "enum", "maxItems"}
        assert any(bounded & kind.keys() for kind in kinds), name


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("forgetting", {"texts": 1}, "forgetting.texts must be at least 4; got 1"),
        ("forgetting", {"textes": 8}, "forgetting.textes is not a known key; closest: texts"),
        ("latency", {"rounds": 5}, "latency.rounds must be at least 30; got 5"),
        ("latency", {"batch_sizes": [0]}, "at least 1; got 0"),
        ("efficiency", {"cost": "time"}, "must be 'seconds' or 'flops'"),
        ("survey", {"rows": 1}, "survey.rows is not a known key"),
    ],
)
def test_a_bad_option_gets_one_sentence(name, settings, words):
    with pytest.raises(WorkbenchError, match=words.replace("[", r"\[")):
        analyses.find(name).checked(settings, 3)


def test_too_few_runs():
    with pytest.raises(WorkbenchError, match="movement takes 1 or more runs; got 0"):
        analyses.find("movement")([], {})
    assert isinstance(analyses.find("survey")([], {}), Result)


def test_an_option_without_an_annotation_is_refused_when_the_module_is_imported():
    def careless(runs, *, much=1): ...

    with pytest.raises(TypeError, match="the option much of the analysis careless must be annotated"):
        analysis()(careless)


def test_whole_numbers_stay_whole_in_a_table_with_gaps():
    frame = table([{"a": 36864, "b": 1.5}, {"a": None}], ("a", "b"))
    assert frame.to_dict("records") == [{"a": 36864, "b": 1.5}, {"a": None, "b": None}]
    assert isinstance(frame["a"][0], int)


def test_a_chart_is_whole():
    made = chart("bars", "t", "x", "y", [{"name": "n", "x": [1], "y": [2.0]}], 1.0, log_y=True)
    assert made["series"] == [{"name": "n", "x": [1], "y": [2.0], "low": None, "high": None, "text": None}]
    assert (made["reference"], made["log_x"], made["log_y"]) == (1.0, False, True)


def test_a_job_gives_plain_values(plant):
    run = plant("bert", "lora")
    one = {"reference": run.reference, "label": "lora", "adapter": str(run.adapter), "row": dict(run.row), "history": []}
    found = analyses.run_job({"analysis": "movement", "settings": {"rows": 4}, "runs": [one]}, run.adapter.parent)
    assert wire.plain(found) == plain(wire.plain(found))
    assert found["runs"] == [run.reference]
    assert found["settings"] == {"rows": 4}
    assert "neighbours" not in found, "only times are spoilt by other jobs"
    assert {"device", "threads", "sentences", "per_run"} <= found.keys()
    assert all(isinstance(row, dict) for row in found["tables"]["movement"])
