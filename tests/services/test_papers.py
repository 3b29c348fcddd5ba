"""Paper files: each is on the source list, its experiment can be read, and its claim can fail."""

import json
import re

import pytest
import yaml

from workbench.compare import claims
from workbench.core.errors import NotBuiltYet, WorkbenchError
from workbench.services import papers, showing

FILES = sorted(papers.FOLDER.glob("[0-9]*.yaml"))


def test_the_list_holds_119_papers_and_says_which_work():
    found = papers.papers()
    assert [p["id"] for p in found] == list(range(1, 120))
    assert len({p["key"] for p in found}) == 119
    assert {p["key"] for p in found if p["status"] == "works"} == {f.stem[4:] for f in FILES}
    assert all(p["claim"] is None for p in found if p["status"] == "planned")


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_paper_file_agrees_with_its_name_and_the_list(file):
    paper = papers.find(file.stem[4:])
    listed = papers.papers()[paper.id - 1]
    assert re.fullmatch(r"\d{3}-[a-z0-9_]+", file.stem)
    assert (f"{paper.id:03d}-{paper.key}", listed["key"]) == (file.stem, paper.key)
    assert all(claims.names(check) for check in paper.checks)
    assert sum(len(step.labels()) for step in paper.whole()) > 1, "a claim needs something to compare with"


@pytest.mark.parametrize("file", sorted((papers.FOLDER / "waiting").glob("*.yaml")), ids=lambda f: f.stem)
def test_a_waiting_paper_file_can_be_read(file):
    listed = papers.papers()[papers._read(file).id - 1]
    assert file.stem == f"{listed['id']:03d}-{listed['key']}"
    assert listed["status"] == "planned"


def test_a_check_must_speak_of_the_experiment(tmp_path, monkeypatch):
    value = yaml.safe_load(FILES[0].read_text()) | {"checks": ["nobody.accuracy > 0"]}
    (tmp_path / FILES[0].name).write_text(yaml.safe_dump(value))
    with pytest.raises(WorkbenchError, match="'nobody', which is no label"):
        papers._read(tmp_path / FILES[0].name)


STEPS = [
    {
        "run": {
            "model": "bundled/minilm",
            "task": "text_classification",
            "data": {"source": "bundled/docstrings"},
            "methods": ["lora"],
        }
    },
    {"operate": "average", "of": ["lora"], "name": "mean"},
]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"experiment": STEPS[0]["run"], "steps": STEPS}, "either `experiment` or `steps`"),
        ({}, "either `experiment` or `steps`"),
        ({"steps": STEPS[1:]}, "labels of earlier steps"),
        ({"steps": [*STEPS, STEPS[1]]}, "labels of earlier steps"),
        ({"steps": [STEPS[0], {**STEPS[1], "of": ["nobody"]}]}, "nobody"),
    ],
)
def test_steps_must_follow_from_each_other(tmp_path, change, sentence):
    value = {k: v for k, v in yaml.safe_load(FILES[0].read_text()).items() if k != "experiment"}
    value |= {"checks": ["lora.accuracy > 0"], **change}
    (tmp_path / FILES[0].name).write_text(json.dumps(value))
    with pytest.raises(WorkbenchError, match=sentence):
        papers._read(tmp_path / FILES[0].name)


def test_steps_run_in_order_and_are_judged_together(monkeypatch, tmp_path):
    """Trainings and operations are planted; what is asked of them, in which order, and the outcome are ours."""
    value = {k: v for k, v in yaml.safe_load(FILES[0].read_text()).items() if k != "experiment"}
    last = {"run": {**STEPS[0]["run"], "methods": [{"method": "lora", "label": "again", "init_from": "$mean"}]}}
    value |= {"checks": ["mean.accuracy > lora.accuracy", "again.accuracy > 0.9"], "steps": [*STEPS, last]}
    (tmp_path / FILES[0].name).write_text(json.dumps(value))
    paper = papers._read(tmp_path / FILES[0].name)
    monkeypatch.setattr(papers, "find", lambda key: paper)
    asked = []

    def trained(spec, *_):
        label = spec.methods[0].label
        asked.append((label, spec.methods[0].init_from))
        row = {"label": label, "method": "lora", "state": "finished", "metrics": {"accuracy": 0.5}}
        rows = [{**row, "seed": s, "run_id": f"{label}-s{s}"} for s in (0, 1)]
        return {"experiment": f"{label}-1", "rows": rows}

    def made(operation, references, settings, name, judge):
        asked.append((operation, references, name, judge))
        return name

    def done(name):
        told = {"name": name, "method": "lora", "trainable_params": 10, "metrics": {"accuracy": 0.6}}
        return {"state": "finished", "reason": None, "result": told}

    monkeypatch.setattr(showing.experiments, "run", trained)
    monkeypatch.setattr(showing.adapters, "operate", made)
    monkeypatch.setattr(showing.adapters, "finish", done)
    found = showing.run(papers.papers()[0]["key"])
    assert asked == [
        ("lora", None),
        ("average", ["lora-s0"], "lora-1-mean-s0", True),
        ("average", ["lora-s1"], "lora-1-mean-s1", True),
        ("again", "lora-1-mean-s0"),
    ]
    assert [(one["left"], one["holds"]) for one in found["outcome"]] == [(0.6, True), (0.5, False)]
    assert not found["holds"]
    assert found["experiments"] == ["lora-1", "again-1"]


def test_unknown_and_planned_papers():
    with pytest.raises(WorkbenchError, match="closest: houlsby_adapter"):
        papers.find("houlsby_adaptor")
    planned = next(p["key"] for p in papers.papers() if p["status"] == "planned")
    with pytest.raises(NotBuiltYet, match=planned):
        papers.find(planned)
