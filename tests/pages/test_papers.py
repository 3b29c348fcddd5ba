"""Papers: the list, its filters, and the claim of a paper beside what this home's runs say of it."""

import pytest

from tests.pages import planting
from workbench.jobs.store import NAME, Store
from workbench.services import papers

EXPERIMENT = "houlsby-adapter-abc123"
PAPER = {
    "id": 1,
    "key": "houlsby_adapter",
    "url": "https://arxiv.org/abs/1902.00751",
    "kind": "method",
    "recipe": "method: lora",
    "claim": "It is better.",
    "checks": ["lora.accuracy >= head_only.accuracy + 0.1", "lora.accuracy >= 0.99"],
    "experiment": {"model": "bundled/minilm", "task": "text_classification", "data": "bundled/docstrings", "methods": ["lora"]},
}


@pytest.fixture
def one(home, monkeypatch):
    """A list in which one paper works."""
    found = {"houlsby_adapter": papers.Paper.model_validate(PAPER)}
    monkeypatch.setattr(papers, "_all", lambda: found)
    return home


def said(at):
    return "\n".join(m.value for m in (*at.markdown, *at.caption))


def test_a_paper_that_was_not_run_says_how(one, cold):
    at = cold("papers")
    assert not at.exception
    assert "119 of 119 papers, of which 1 work here" in said(at)
    assert said(at).count(":gray-badge[not measured]") == 2
    assert at.code[0].value == "python -m workbench paper houlsby_adapter"


def test_the_newest_runs_say_which_checks_hold(one, cold):
    with Store(one / NAME) as store:
        planting.plant_run(store, "h0", "head_only", 0, accuracy=0.6, experiment=EXPERIMENT)
        planting.plant_run(store, "l0", "lora", 0, accuracy=0.8, experiment=EXPERIMENT)
    at = cold("papers", paper="houlsby_adapter")
    assert not at.exception
    assert ":green-badge[holds] `lora.accuracy >= head_only.accuracy + 0.1` (0.800 against 0.700)" in said(at)
    assert ":red-badge[does not hold] `lora.accuracy >= 0.99`" in said(at)


def test_runs_that_go_on_are_not_judged(one, cold):
    with Store(one / NAME) as store:
        planting.plant_run(store, "l0", "lora", 0, state="running", experiment=EXPERIMENT)
    at = cold("papers")
    assert not at.exception
    assert "Its runs are going on" in said(at)
    assert "holds]" not in said(at)


def test_filters_and_a_planned_paper(one, cold):
    at = cold("papers", paper="hyperformer")
    assert "Its claim was not shown here yet." in said(at)
    at.text_input(key="papers.search").set_value("shared hypernetworks").run()
    assert "1 of 119 papers" in said(at)
    at.text_input(key="papers.search").set_value("nothing like it").run()
    assert any("No paper fits" in i.value for i in at.info)
    at.text_input(key="papers.search").set_value("")
    at.segmented_control(key="papers.status").set_value("works").run()
    assert not at.exception
    assert "1 of 119 papers" in said(at)
