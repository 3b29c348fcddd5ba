"""The Runs page with a long queue: pages, filters, and the way to a comparison."""

import os
import time

import pytest

from tests.pages import planting
from workbench.core.paths import jobs_db, run_folder
from workbench.jobs import failures
from workbench.jobs.store import Store
from workbench.services import queue
from workbench.ui import queueing, running, tables, words


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


def test_what_waits_is_moved_held_and_released(jobs, cold):
    with Store(jobs_db()) as store:
        more = planting.plant_run(store, "lora-s5-eeee0000", "lora", 5, "queued")
    rows = {row["job"]: row for row in queue.rows()}
    assert [rows[job]["turn"] for job in (jobs["queued"], more, jobs["running"])] == [1, 2, None]
    at = cold("runs", experiment=planting.EXPERIMENT)
    shown = at.dataframe[0].value.set_index("Job")["Turn"]
    assert (shown[more], shown[jobs["queued"]]) == (2, 1)
    queueing._move([more], "first")
    assert [row["job"] for row in sorted(queue.rows(states=("queued",)), key=lambda row: row["turn"])] == [more, jobs["queued"]]
    at.button(key="runs.hold").click().run()
    assert queue.counts() == {"finished": 4, "failed": 1, "running": 1, "paused": 2}
    assert "Turn" not in at.dataframe[0].value
    at.button(key="runs.release").click().run()
    assert queue.counts()["queued"] == 2
    assert not at.exception


def test_the_end_of_a_batch_is_estimated_from_plan_and_finished_runs(jobs, cold):
    with Store(jobs_db()) as store:
        for job in jobs.values():
            store._set(job, {"planned_seconds": 10.0}, (store.row(job)["state"],))
        for job in (jobs["head_only-0"], jobs["lora-0"], jobs["head_only-1"], jobs["lora-1"]):
            store._set(job, {"started": 100.0, "ended": 130.0}, ("finished",))
    found = queue.estimate(planting.EXPERIMENT)
    assert (found.runs, found.finished) == (2, 4)
    assert 45 <= found.seconds <= 55  # 30 s of the waiting run; the running one did half of its steps in about 20 s
    at = cold("runs")
    said = [one.value for one in at.caption if "until these 2 runs are done" in one.value]
    assert said
    assert "an estimate from the plan's seconds, corrected by what 4 finished runs took" in said[0]


def test_the_page_looks_at_the_queue_more_often_than_every_two_seconds(jobs, monkeypatch):
    every = []
    monkeypatch.setattr(queueing.st, "fragment", lambda act, run_every: every.append(run_every) or (lambda *_: None))
    queueing.live(queueing.Part(None, (), 0))
    running.live("lora-s2-bbbb0000")  # it failed: somebody else may retry it
    running.live("lora-s0-aaaa0000")
    assert every == [queueing.EVERY, queueing.EVERY, None]
    assert queueing.EVERY < 2


def test_a_deletion_says_what_it_frees(jobs):
    wanted = [jobs["lora-0"], jobs["lora-1"]]
    held = queue.held_bytes(wanted)
    assert held > 0
    queueing._do("delete", wanted)
    _, said, bad = queueing.st.session_state["runs.said"]
    assert said == f"2 jobs deleted; {words.size(held)} freed."
    assert not bad
    queueing._do("delete", [jobs["running"]])
    _, said, bad = queueing.st.session_state["runs.said"]
    assert bad
    assert said.startswith("a live job cannot be deleted")


def test_a_run_that_says_nothing_for_long_is_flagged_and_goes_on(jobs, cold):
    folder = run_folder("lora-s3-cccc0000")
    for name in ("events.jsonl", "train.log"):
        os.utime(folder / name, (1.0, 1.0))
    with Store(jobs_db()) as store:
        store._set(jobs["running"], {"started": time.time() - 400}, ("running",))
    row = next(row for row in queue.rows() if row["job"] == jobs["running"])
    assert 399 < row["quiet"] < 500
    assert row["state"] == "running"
    assert tables.jobs([row])["Notes"][0].startswith("no sign of life for 6 min")
    at = cold("run", run="lora-s3")
    assert at.warning[0].value.startswith("No sign of life for 6 min")
    (folder / "train.log").write_text("still here\n")
    assert next(row for row in queue.rows() if row["job"] == jobs["running"])["quiet"] is None


def test_a_failure_shows_the_field_and_the_lines(jobs, cold):
    found = failures.Failure("gpu_memory", "the GPU ran out of memory; use a smaller batch_size.", "training.batch_size",
                             ("torch.OutOfMemoryError: CUDA out of memory. <b>2 GiB</b>",))  # fmt: skip
    with Store(jobs_db()) as store:
        store._set(jobs["failed"], {"reason": found.sentence, "failure": found.text()}, ("failed",))
    at = cold("run", run="lora-s2")
    assert [one.value for one in at.error] == ["The GPU ran out of memory; use a smaller batch\\_size."]
    assert any("training.batch_size" in one.value for one in at.markdown)
    assert at.code[0].value == found.lines[0]
    row = next(row for row in queue.rows() if row["job"] == jobs["failed"])
    assert tables.jobs([row])["Notes"][0].endswith("[training.batch_size]")


def test_a_held_run_says_why(jobs, cold):
    queue.hold(planting.EXPERIMENT)
    at = cold("run", run="lora-s4")
    assert [one.value for one in at.info] == ["Held back on request; resume it to queue it again."]
