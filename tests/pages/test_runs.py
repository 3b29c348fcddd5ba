"""The Runs page with a long queue: pages, filters, and the way to a comparison."""

import pytest

from tests.pages import planting
from workbench.core.paths import jobs_db
from workbench.jobs.store import Store
from workbench.services import queue
from workbench.ui import queueing


@pytest.fixture
def short(monkeypatch):
    """Three jobs a page."""
    monkeypatch.setattr(queue, "MOST", 3)
    usual = queue.rows
    monkeypatch.setattr(queue, "rows", lambda *given, **more: usual(*given, **{"count": 3, **more}))


def test_a_long_queue_has_pages_the_newest_first(short, jobs, cold):
    at = cold("runs")
    assert list(at.dataframe[0].value["Job"]) == [7, 6, 5]
    assert at.selectbox(key="runs.page").options == ["1 to 3, the newest", "4 to 6", "7 to 7"]
    assert "page" not in at.query_params
    at.selectbox(key="runs.page").set_value(3).run()
    assert at.query_params["page"] == "3"
    assert list(at.dataframe[0].value["Job"]) == [1]
    assert list(cold("runs", page="2").dataframe[0].value["Job"]) == [4, 3, 2]


def test_states_can_be_chosen_and_are_counted(jobs, cold):
    at = cold("runs", state="finished")
    assert set(at.dataframe[0].value["State"]) == {"finished"}
    assert "finished (4)" in at.selectbox(key="runs.state").options
    at.selectbox(key="runs.state").set_value("paused").run()
    assert not at.exception
    assert not at.dataframe
    assert any("No job is in this state." in one.value for one in at.markdown)
    assert list(cold("runs", state="nonsense", page="99").dataframe[0].value["Job"]) == [7, 6, 5, 4, 3, 2, 1]


def test_the_queue_counts_and_cuts_in_the_store(jobs):
    assert queue.counts() == {"finished": 4, "failed": 1, "running": 1, "queued": 1}
    assert queue.counts("nothing") == {}
    assert [row["job"] for row in queue.rows(states=("finished", "failed"), count=2, skip=1)] == [4, 3]
    assert queue.rows(planting.EXPERIMENT, count=1)[0]["job"] == 7
    with Store(jobs_db()) as store:
        assert store.newest(None, (), 5, kinds=("analyse",)) == []
        assert len(store.newest(planting.EXPERIMENT, ("finished",), 9, kinds=("train", "analyse"))) == 4


def test_ticked_runs_lead_to_their_comparison(jobs, monkeypatch):
    links = []
    monkeypatch.setattr(queueing.notices, "link", lambda *given, **query: links.append((given[:2], query)))
    rows = {row["job"]: row for row in queue.rows()}
    queueing._actions([rows[jobs["lora-0"]], rows[jobs["head_only-0"]]])
    (page, text), query = links[0]
    assert (page, text) == ("compare", "Compare these 2")
    assert query == {
        "experiment": [planting.EXPERIMENT],
        "run": [rows[jobs["lora-0"]]["run_id"], rows[jobs["head_only-0"]]["run_id"]],
    }
    links.clear()
    queueing._actions([rows[jobs["lora-0"]]])
    assert [given[0] for given, _ in links] == ["run"]


def test_a_run_older_than_the_list_is_shown_too(short, jobs, cold):
    at = cold("run", run="head_only-s0")
    assert not at.exception
    assert at.selectbox[0].value.startswith("head_only-s0")
    assert len(at.selectbox[0].options) == 4
