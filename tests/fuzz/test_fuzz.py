"""A few seconds of `make fuzz`, the same inputs every time."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz import targets

EXAMPLES = {"spec": 300, "table": 200, "adapter": 150, "command line": 200}


@pytest.mark.parametrize("name", targets.TARGETS)
def test_no_input_escapes(name):
    @settings(
        max_examples=EXAMPLES[name], derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(targets.TARGETS[name][0])
    def feed(drawn):
        targets.once(name, drawn)

    targets.warm()
    feed()
    assert targets.counts[name, "inputs"] >= EXAMPLES[name]
    assert targets.counts[name, "refused"] > 0
