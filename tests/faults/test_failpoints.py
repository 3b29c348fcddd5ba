"""The table of failpoints is the truth about the source, and a wrong name is refused in one sentence."""

import os
import re
import signal
import subprocess
import sys
from collections import Counter

import pytest

from tests.faults import grid
from workbench.core import failpoints
from workbench.core.paths import ROOT

USE = re.compile(r'failpoints\.reach\("([a-z.]+)"\)')


def test_every_place_is_used_exactly_once_in_the_source():
    sources = (path.read_text() for top in ("workbench", "tracking") for path in (ROOT / top).rglob("*.py"))
    assert Counter(name for text in sources for name in USE.findall(text)) == Counter(list(failpoints.PLACES))


def test_every_place_is_in_the_grid():
    assert {case.place.partition("/")[0].partition("@")[0] for case in grid.F1} == set(failpoints.PLACES)


def at(value, home, code='failpoints.reach("step"); failpoints.reach("step"); print("lives")'):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WORKBENCH_HOME": str(home), failpoints.VARIABLE: value}
    command = [sys.executable, "-c", f"from workbench.core import failpoints; {code}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("value", ["nowhere:KILL", "step", "step:HUP", "step@x:KILL", "step@:KILL:"])
def test_an_unknown_place_is_refused_in_one_sentence(value, tmp_path):
    found = at(value, tmp_path)
    assert found.returncode == 1
    assert found.stderr.startswith("WORKBENCH_FAILPOINT must be PLACE:ACTION")
    assert found.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_failpoint_acts_once_in_a_home_and_at_its_count(tmp_path):
    assert at("step@2:KILL", tmp_path).returncode == -signal.SIGKILL
    assert (tmp_path / "failpoint").read_text().strip().isdigit()
    assert at("step@2:KILL", tmp_path).stdout == "lives\n"
    assert at("loaded:KILL", tmp_path).stdout == at("", tmp_path).stdout == "lives\n"


def test_without_the_variable_it_costs_a_look(tmp_path):
    code = "import timeit; print(timeit.timeit(lambda: failpoints.reach('step'), number=100000))"
    assert float(at("", tmp_path, code).stdout) < 1.0  # 10 microseconds each would be slow already
