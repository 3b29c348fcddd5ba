"""What every test runs with: one thread, no network, a home of its own; and the tiny hosts."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
# before torch, transformers or mlflow are imported: they read these once
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ.setdefault(_name, "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
_HOME = tempfile.TemporaryDirectory(prefix="workbench-tests-", ignore_cleanup_errors=True)
os.environ["WORKBENCH_HOME"] = _HOME.name

OPTIONAL = {
    "slow": "takes more than a few seconds; runs with --slow (make test-all)",
    "all_hosts": "the second host of every method; runs with WORKBENCH_ALL_HOSTS=1 (make test-all)",
    "gpu": "needs CUDA; runs with -m gpu (make gpu)",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """--slow adds the slow tests."""
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_configure(config: pytest.Config) -> None:
    """Register the optional markers."""
    for name, text in OPTIONAL.items():
        config.addinivalue_line("markers", f"{name}: {text}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the optional tests that nobody asked for; pytest reports how many."""
    asked = {n for n in OPTIONAL if n in (config.option.markexpr or "")}
    asked |= {"slow"} if config.getoption("--slow") else set()
    asked |= {"all_hosts"} if os.environ.get("WORKBENCH_ALL_HOSTS") else set()
    out = {item for item in items if any(item.get_closest_marker(n) for n in OPTIONAL.keys() - asked)}
    if out:
        config.hook.pytest_deselected(items=[item for item in items if item in out])
        items[:] = [item for item in items if item not in out]


@pytest.fixture(scope="session", autouse=True)
def _home_is_removed() -> object:
    """The session's home goes when the session ends."""
    yield
    _HOME.cleanup()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workbench home for one test alone."""
    folder = tmp_path / "home"
    monkeypatch.setenv("WORKBENCH_HOME", str(folder))
    return folder


@pytest.fixture
def tiny_host() -> Callable[..., object]:
    """`tiny_host("bert")` -> a fresh copy of that family's 32-wide test model, in eval mode."""
    from tests.contract.hosts import host

    return host
