"""The test methods are in the registry while these tests run."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.contract.checks import known
from tests.kernel.parts import METHODS


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with ExitStack() as stack:
        for key, cls in METHODS.items():
            stack.enter_context(known(cls, key))
        yield
