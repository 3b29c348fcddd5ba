"""Paper files: each is on the source list, its experiment can be read, and its claim can fail."""

import re

import pytest
import yaml

from workbench.compare import claims
from workbench.core.errors import NotBuiltYet, WorkbenchError
from workbench.services import papers

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
    assert len(paper.spec().methods) > 1, "a claim needs something to compare with"


def test_a_check_must_speak_of_the_experiment(tmp_path, monkeypatch):
    value = yaml.safe_load(FILES[0].read_text()) | {"checks": ["nobody.accuracy > 0"]}
    (tmp_path / FILES[0].name).write_text(yaml.safe_dump(value))
    with pytest.raises(WorkbenchError, match="'nobody', which is no label"):
        papers._read(tmp_path / FILES[0].name)


def test_unknown_and_planned_papers():
    with pytest.raises(WorkbenchError, match="closest: houlsby_adapter"):
        papers.find("houlsby_adaptor")
    planned = next(p["key"] for p in papers.papers() if p["status"] == "planned")
    with pytest.raises(NotBuiltYet, match=planned):
        papers.find(planned)
