"""F10: random requests with random kills between them; every job's history must be one that the rules allow."""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults import histories
from workbench.jobs import client

EXAMPLES = int(os.environ.get("WORKBENCH_HISTORIES") or 20)
"""Histories of 40 operations in `make faults`; each takes some seconds."""


@pytest.mark.parametrize(
    ("examples", "steps"), [(3, 25), pytest.param(EXAMPLES, 40, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_random_histories_are_ones_that_the_rules_allow(examples, steps, template, tmp_path, monkeypatch, record_property):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(client, "ensure_daemon", None)
    counts = {"homes": 0, "operations": 0, "kills": 0}
    clients = type(
        "Clients", (histories.Clients,), {"folder": tmp_path, "reference": template / "runs" / "reference", "counts": counts}
    )
    run_state_machine_as_test(
        clients,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    record_property("F10", counts["operations"] + counts["kills"])
    assert counts["operations"] > 0


def entry(op, run="a", ok=True, said="", **states):
    return {"op": op, "run": run, "ok": ok, "said": said, "states": states}


DONE = {"state": "finished", "attempt": 1}


@pytest.mark.parametrize(
    ("history", "rows", "broken"),
    [
        ([entry("submit")], {"a": DONE}, None),
        ([entry("submit")], {}, "a: it was acknowledged and is gone"),
        ([], {"a": DONE}, "a was never submitted"),
        ([entry("submit"), entry("cancel")], {"a": {"state": "queued", "attempt": 1}}, "the last thing granted was cancel"),
        ([entry("submit")], {"a": {"state": "failed", "attempt": 1}}, "nobody was killed"),
        ([entry("submit"), entry("kill worker")], {"a": {"state": "failed", "attempt": 1}}, None),
        ([entry("submit"), entry("cancel"), entry("retry")], {"a": DONE}, "at attempt 1 after 1 times"),
        ([entry("submit"), entry("delete")], {"a": DONE}, "it was deleted"),
        ([entry("submit"), entry("cancel", ok=False, said="Traceback\nx")], {"a": DONE}, "more than one line"),
        ([entry("submit"), entry("list", "", a="cancelled"), entry("list", "", a="queued")], {"a": DONE}, "shown cancelled"),
        ([entry("submit"), entry("kill daemon", "")], {"a": {"state": "finished", "attempt": 2}}, None),
        ([entry("submit")], {"a": {"state": "finished", "attempt": 2}}, "at attempt 2"),
    ],
)
def test_the_judge_of_histories_bites(history, rows, broken):
    found = histories.judge(history, rows)
    assert (found == []) if broken is None else any(broken in text for text in found)
