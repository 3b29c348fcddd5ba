"""When a batch will be done: from plans, corrected by what finished, over as many slots as are busy."""

import pytest

from workbench.services import finishing

NOW = 1000.0


def run(state="queued", planned=10.0, experiment="one", **more):
    """A training's row, as far as it matters here."""
    started = NOW - more.pop("age", 0.0) if state != "queued" else None
    return {
        "experiment": experiment,
        "state": state,
        "planned_seconds": planned,
        "started": started,
        "step": 0,
        "steps": 0,
    } | more


def pace(runs, took, planned, took_planned=None):
    """What finished runs of one experiment say."""
    return {"runs": runs, "took": took, "planned": planned, "took_planned": took if took_planned is None else took_planned}


@pytest.mark.parametrize(
    ("rows", "paces", "seconds", "finished"),
    [
        ([run(), run()], {}, 20, 0),
        ([run(), run()], {"one": pace(2, 60, 20)}, 60, 2),  # three times as slow as planned
        ([run("running", age=4), run()], {}, 16, 0),
        ([run("running", age=40), run()], {}, 10, 0),  # longer than planned: it may end at any moment
        ([run("running", age=30, step=10, steps=40), run()], {}, 100, 0),  # its own steps say 90 s
        ([run("running"), run("running"), run(planned=30.0), run()], {}, 40, 0),  # two slots
        ([run(planned=None)], {"one": pace(2, 60, None)}, 30, 2),
        ([run(step=30, steps=40)], {}, 2.5, 0),  # resumed from three quarters
    ],
)
def test_an_estimate(rows, paces, seconds, finished):
    found = finishing.estimate(rows, paces, NOW)
    assert (found.runs, found.seconds, found.finished) == (len(rows), pytest.approx(seconds), finished)
    assert ("loading and judging come on top" in found.basis) == (not finished)


def test_other_experiments_before_it_take_their_time():
    rows = [run("running", experiment="two"), run(), run(experiment="two"), run(experiment="two")]
    assert finishing.estimate(rows, {}, NOW, "one").seconds == 20
    assert finishing.estimate(rows, {}, NOW, "one").runs == 1
    assert finishing.estimate(rows, {}, NOW, "two").seconds == 40
    assert finishing.estimate(rows, {}, NOW).runs == 4


def test_nothing_is_said_where_nothing_is_known():
    assert finishing.estimate([], {}, NOW) is None
    assert finishing.estimate([run(), run(planned=None)], {}, NOW) is None
    assert finishing.estimate([run()], {}, NOW, "another") is None
