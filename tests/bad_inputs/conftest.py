"""A terminal for each test, on a home that is made once, so that no test pays for imports and first measurements."""

from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from tests.bad_inputs.refusing import Terminal, never
from workbench.cli import main
from workbench.core import safe_yaml
from workbench.jobs import client

SPEC = {
    "name": "small",
    "model": "bundled/minilm",
    "task": "text_classification",
    "data": {"source": "reviews.csv"},
    "methods": [{"method": "lora", "rank": 4}, "head_only"],
    "training": {"max_steps": 2, "batch_size": 4, "max_length": 16},
    "seeds": [0],
}
"""A spec without a flaw, on `reviews` beside it."""
REVIEWS = "text,label\n" + "".join(f"review number {i} of the thing,{('good', 'bad')[i % 2]}\n" for i in range(120))


@pytest.fixture(scope="session")
def warm_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which one good spec was planned: imports, probes of the machine and hashes of the base are done."""
    folder = tmp_path_factory.mktemp("warm")
    (folder / "reviews.csv").write_text(REVIEWS)
    (folder / "spec.yaml").write_text(safe_yaml.dumps(SPEC))
    for name in ("PIL.Image", "pyarrow.parquet"):
        import_module(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(folder / "home"))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.chdir(folder)
        for command in ("plan", "data"):
            assert main([command, "spec.yaml"]) == 0
    return folder / "home"


@pytest.fixture
def terminal(warm_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    """Stands in an empty folder."""
    monkeypatch.setenv("WORKBENCH_HOME", str(warm_home))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(client, "submit", never)
    monkeypatch.chdir(tmp_path)
    return Terminal(warm_home, tmp_path, capsys)


@pytest.fixture(autouse=True)
def _counted(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    """Remember how a case of a matrix is meant to end; cases beyond the matrices are not counted."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("case")
    if name and not name.startswith("more: "):
        record_property("ends", request.module.CASES[name].outcome)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Cases per matrix and how they ended."""
    found: dict[str, Counter[str]] = {name: Counter() for name in ("specs", "data", "adapters")}
    for report in (one for result in ("passed", "failed") for one in terminalreporter.stats.get(result, [])):
        ends = dict(report.user_properties).get("ends")
        if ends and report.when == "call":
            name = Path(report.nodeid.partition("::")[0]).stem.removeprefix("test_")
            found[name]["otherwise" if report.failed else str(ends)] += 1
    for name, counts in found.items():
        if counts:
            told = ", ".join(f"{counts[end]} {end}" for end in ("refused", "warned", "accepted", "otherwise"))
            terminalreporter.write_line(f"bad {name:8} {counts.total():3} cases: {told}")
