"""A home of its own for every fault, made from one that holds a finished run; and the counts of what was injected."""

from collections import Counter

import pytest

from tests.faults import grid
from tests.jobs.conftest import home  # noqa: F401 - the fixture: nothing may be left running
from workbench.jobs import client

MATRICES = {
    "F1": "SIGKILL at every place", "F2": "other signals", "F3a": "SIGKILL at the k-th system call",
    "F3b": "an error of the k-th system call", "F4": "power loss", "F5": "resources", "F6": "damaged queue",
    "F7": "trainings that go wrong", "F8": "clock", "F9": "network", "F10": "requests and kills of histories",
}  # fmt: skip


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """The home that every case starts from."""
    folder = tmp_path_factory.mktemp("template") / "home"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(folder))
        patch.setattr(client, "ensure_daemon", lambda: None)
        grid.reference(folder)
    return folder


@pytest.fixture
def planted_home(home, template, monkeypatch):  # noqa: F811
    """A copy of the template; clients in this process leave the daemon to the test."""
    monkeypatch.setattr(client, "ensure_daemon", lambda: None)
    grid.fresh(template, home)
    return home


def pytest_terminal_summary(terminalreporter):
    """Faults injected per matrix, as the tests recorded them with `record_property("F1", n)`, and what could not run here."""
    counts, failed = Counter(), Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, n in report.user_properties:
                counts[name] += n if report.when == "call" else 0
                failed[name] += outcome == "failed"
    for name in sorted(set(counts) & set(MATRICES), key=lambda name: (len(name), name)):
        terminalreporter.write_line(f"{name:4} {MATRICES[name]:40} {counts[name]:6} injected, {failed[name]} broken")
    if counts["kills"]:
        terminalreporter.write_line(f"     of F10, kills of daemons, workers and clients: {counts['kills']}")
    total, broken = (sum(found[name] for name in MATRICES) for found in (counts, failed))
    skipped = len(terminalreporter.stats.get("skipped", []))
    terminalreporter.write_line(f"{total} faults injected, {broken} tests with a broken invariant, {skipped} not runnable here")
