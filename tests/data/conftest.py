"""A home of their own for all data tests of one session, so that the docstrings are gathered once."""

import pytest


@pytest.fixture(scope="session")
def data_home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _home(data_home, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(data_home))


@pytest.fixture
def write(tmp_path):
    """write(name, content) -> path as text."""

    def put(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return put
