"""F3: the commit paths under SIGKILL, ENOSPC, EIO, EINTR and EACCES at the k-th call of the kernel, for every k of a dry run."""

import pytest

from tests.faults import syscalls
from tests.faults.ways import WAYS
from workbench.jobs import client

pytestmark = pytest.mark.skipif(not syscalls.works(), reason=syscalls.MISSING)
FEW = 11
"""Each so-manieth place is for every run of the tests, all of them for `make faults`."""
ALL = pytest.param(1, id="all", marks=pytest.mark.slow)
SOME = pytest.param(FEW, id="some")


@pytest.fixture
def alone(home, monkeypatch):
    """A home without a daemon, and clients that do not start one."""
    monkeypatch.setattr(client, "ensure_daemon", lambda: None)
    return home


@pytest.mark.parametrize("step", [SOME, ALL])
@pytest.mark.parametrize("name", WAYS)
def test_a_kill_at_any_call_leaves_the_old_or_the_new(name, step, alone, record_property):
    count, broken = syscalls.every(WAYS[name], alone, "signal=SIGKILL", step)
    record_property("F3a", count)
    assert not broken, "\n".join(broken[:30])
    assert count > 10 // step


@pytest.mark.parametrize("step", [SOME, ALL])
@pytest.mark.parametrize("error", ["ENOSPC", "EIO", *(pytest.param(e, marks=pytest.mark.slow) for e in ("EINTR", "EACCES"))])
@pytest.mark.parametrize("name", WAYS)
def test_an_error_of_any_call_is_one_sentence_and_leaves_nothing_half_done(name, error, step, alone, record_property):
    """EINTR is normally unnoticed: Python and SQLite ask again."""
    count, broken = syscalls.every(WAYS[name], alone, f"error={error}", step, first=3 if step > 1 else 0)
    record_property("F3b", count)
    assert not broken, "\n".join(broken[:30])
