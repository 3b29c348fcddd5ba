"""F1 and F2: whoever is killed, stopped or shaken, wherever: the home tells the truth and the run ends bitwise as undisturbed."""

import pytest

from tests.faults import grid

SLICE = {
    "submit.written-KILL", "claimed-KILL", "forked-KILL", "checkpoint.written@2-KILL", "adapter.written-KILL",
    "verdict.written-KILL", "wish.seen/pause-STOP-both", "export.written/export-KILL", "verdict.before-INT",
    "step@3-TERM",
}  # fmt: skip
"""What every run of the tests injects; the others are for `make faults`."""


def cases(which):
    return [pytest.param(c, id=str(c), marks=[] if str(c) in SLICE else pytest.mark.slow) for c in which]


@pytest.mark.parametrize("case", cases(grid.F1))
def test_a_killed_process_breaks_no_promise(case, planted_home, record_property):
    record_property("F1", 1)
    assert grid.play(case, planted_home) == []


@pytest.mark.parametrize("case", cases(grid.F2))
def test_a_shaken_process_breaks_no_promise(case, planted_home, record_property):
    record_property("F2", 1)
    assert grid.play(case, planted_home) == []


def test_the_slice_names_cases_that_exist():
    assert {str(case) for case in (*grid.F1, *grid.F2)} >= SLICE
