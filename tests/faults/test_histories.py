"""F10: random requests of many clients at once, with random kills between them; every job's history must be one that the rules
allow."""

import pytest

from tests.faults import histories
from tests.faults.linear import Entry

SEEDS = 20
"""Histories of 400 requests and at least 16 kills in `make faults`: 8 000 and 320 in all."""
SOME = histories.Plan(seed=0, clients=4, operations=20)
FULL = [histories.Plan(seed) for seed in range(1, SEEDS + 1)]


@pytest.mark.parametrize(
    "plan", [SOME, *(pytest.param(p, marks=pytest.mark.slow) for p in FULL)], ids=lambda p: f"{p.clients}x{p.operations}-{p.seed}"
)
def test_random_histories_are_ones_that_the_rules_allow(plan, planted_home, record_property):
    found = histories.play(planted_home, plan, planted_home / "runs" / "reference")
    record_property("F10", found.operations + found.kills)
    record_property("kills", found.kills)
    assert not found.broken, "\n".join([*found.broken[:20], *(str(e) for e in found.entries)])
    assert found.kills > 0


def sequence(*asked):
    """Entries one after the other; each is an op of run `a`, or a pair of it and what is not usual about it."""
    pairs = [one if isinstance(one, tuple) else (one, {}) for one in asked]
    usual = [{"run": "a", "began": 2.0 * n, "ended": 2.0 * n + 1, "ok": True} for n in range(len(pairs))]
    return [Entry(op, **{**given, **more}) for given, (op, more) in zip(usual, pairs, strict=True)]


def shown(state):
    return "list", {"run": "", "states": {"a": state} if state else {}}


def refused(op, said):
    return op, {"ok": False, "said": said}


FINISHED, GONE = {"a": {"state": "finished", "attempt": 1}}, {}
AT_ONCE = {"began": 0.0, "ended": 99.0}


def row(state, attempt=1):
    return {"a": {"state": state, "attempt": attempt}}


@pytest.mark.parametrize(
    ("history", "rows", "broken"),
    [
        (sequence("submit"), FINISHED, None),
        (sequence("submit"), GONE, "it rests gone"),
        (sequence(), FINISHED, "a was never submitted"),
        (sequence("submit", "cancel"), row("cancelled"), None),
        (sequence("submit", "cancel"), row("paused"), "it rests paused"),
        (sequence("submit", "pause", "cancel"), row("paused"), "it rests paused"),
        (sequence("submit", "cancel", "pause"), row("cancelled"), None),
        (sequence("submit"), row("failed"), "it rests failed"),
        (sequence("submit", "kill worker"), row("failed"), None),
        (sequence("submit", "kill daemon"), row("failed"), "it rests failed"),
        (sequence("submit", "cancel", "retry"), FINISHED, "at attempt 1, which must be 2 to 2"),
        (sequence("submit", "kill daemon"), row("finished", 2), None),
        (sequence("submit"), row("finished", 2), "at attempt 2, which must be 1 to 1"),
        (sequence("submit", "delete"), FINISHED, "it rests finished"),
        (sequence("submit", "delete", "cancel"), GONE, "cancel was granted"),
        (sequence("submit", ("delete", AT_ONCE), "cancel"), GONE, None),
        (sequence("submit", refused("cancel", "Traceback\nx")), FINISHED, "more than one line"),
        (sequence("submit", shown("cancelled")), FINISHED, "list showed cancelled"),
        (sequence("submit", shown("finished"), shown("running")), FINISHED, "list showed running, after it could be finished"),
        (sequence("submit", shown(None)), FINISHED, "list showed nothing"),
        (sequence(("submit", AT_ONCE), shown(None), shown("queued")), FINISHED, None),
        (sequence("submit", shown("finished"), "cancel"), FINISHED, "cancel was granted"),
        (sequence("submit", refused("resume", "only a paused job can be resumed; job 1 is queued.")), FINISHED, None),
        (sequence("submit", refused("cancel", "only a job that is not over can be cancelled; job 1 is paused.")), FINISHED, None),
        (sequence("submit", "pause", shown("paused"), refused("resume", "only a paused job can be resumed; job 1 is queued.")),
         row("paused"), "resume only a paused job"),
        (sequence("submit", refused("delete", "a live job cannot be deleted; cancel job 1 first.")), FINISHED, None),
        (sequence("submit", "delete", refused("delete", "a live job cannot be deleted; wait.")), GONE, "delete a live"),
        (sequence(("submit", {"ended": None, "ok": False})), GONE, None),
        (sequence(("submit", {"ended": None, "ok": False})), FINISHED, None),
        (sequence(refused("submit", "the disk is full.")), FINISHED, "it rests finished"),
    ],
)  # fmt: skip
def test_the_judge_of_histories_bites(history, rows, broken):
    found = histories.judge(history, rows, [e for e in history if e.op.startswith("kill")])
    assert (found == []) if broken is None else any(broken in text for text in found), found
