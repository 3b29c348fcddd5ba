"""What MLflow is told: repeated until accepted, one bad job never holding up the others."""

import pytest

from tests.jobs.living import make_spec
from tracking import client as tracking_client
from tracking import reporter as tracking_reporter
from workbench.core.errors import WorkbenchError
from workbench.core.paths import run_folder
from workbench.jobs import client, record, worker


@pytest.fixture
def told(home, store, monkeypatch):
    """Two queued trainings, and a tracking store that keeps what it is told, or is away."""
    monkeypatch.setattr(client, "ensure_daemon", lambda: None)
    client.submit([make_spec("one"), make_spec("two")])
    heard, away = [], set()

    def hear(what, name, *rest):
        if what in away:
            raise WorkbenchError("the tracking store must answer.")
        heard.append((what, name, *rest[:1]))

    monkeypatch.setattr(tracking_client, "start_run", lambda spec: hear("start", spec.run_id) or f"ml-{spec.run_id}")
    monkeypatch.setattr(tracking_client, "end", lambda name, *rest: hear("end", name, *rest))
    monkeypatch.setattr(tracking_reporter, "resend", lambda folder, name: "resend" not in away)
    return heard, away


def test_queued_runs_are_scheduled_and_ends_told_once(told, store, home):
    heard, _ = told
    recorder = record.Recorder(home / "jobs.db")
    assert not recorder._round(store)
    assert heard == [("start", "one"), ("start", "two")]
    assert [row["mlflow_id"] for row in store.rows()] == ["ml-one", "ml-two"]
    client.cancel("one")
    assert not recorder._round(store)
    assert not recorder._round(store)
    assert heard[2:] == [("end", "ml-one", "cancelled")]


def test_an_absent_store_is_asked_again(told, store, home):
    heard, away = told
    recorder = record.Recorder(home / "jobs.db")
    away.add("start")
    assert recorder._round(store)
    away.clear()
    assert not recorder._round(store)
    client.cancel("one")
    (run_folder("one") / "events.jsonl").touch()
    away.add("resend")
    assert recorder._round(store)
    assert [row["job"] for row in store.untold()] == [1]
    away.clear()
    assert not recorder._round(store)
    assert heard[-1] == ("end", "ml-one", "cancelled")


def test_a_damaged_spec_holds_up_nobody(told, store, home):
    heard, _ = told
    (run_folder("one") / "spec.yaml").write_text("]")
    recorder = record.Recorder(home / "jobs.db")
    assert recorder._round(store)
    assert recorder._round(store)
    assert heard == [("start", "two")]


def test_a_training_never_asks_the_tracking_store_itself(told, store, monkeypatch):
    heard, _ = told
    senders = []
    monkeypatch.setattr(tracking_reporter, "_start", lambda folder, name: senders.append(name))
    row = store.row(1)
    worker._reporter(store, row, run_folder("one"), lambda: None).close()
    store.named(1, "ml-one")
    worker._reporter(store, row, run_folder("one"), lambda: None).close()
    assert (senders, heard) == (["", "ml-one"], [])
