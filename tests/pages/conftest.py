"""Pages without processes: no daemon, no engine, a planted home, and the real catalogue, built once."""

import shutil

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from tests.conftest import ROOT
from tests.pages import planting
from workbench.core import paths
from workbench.jobs import client
from workbench.services import catalogue, data, plans, playing
from workbench.ui import boot


@pytest.fixture(scope="session")
def catalogue_file():
    """The real catalogue, in the session's own home."""
    catalogue.everything()
    return paths.cache() / "catalogue.json"


@pytest.fixture
def home(tmp_path, monkeypatch, catalogue_file):
    """A home of its own with the catalogue in its cache; the daemon is never started."""
    folder = (tmp_path / "home").resolve()
    monkeypatch.setenv("WORKBENCH_HOME", str(folder))
    monkeypatch.chdir(ROOT)
    shutil.copy(catalogue_file, paths.cache() / "catalogue.json")
    monkeypatch.setattr(boot.waking, "nudge", lambda: None)
    monkeypatch.setattr(client, "ensure_daemon", lambda: None)
    monkeypatch.setattr(client, "TELL_WITHIN", 0.0)
    st.cache_data.clear()
    return folder


@pytest.fixture
def jobs(home):
    """The planted experiment: name -> job number."""
    return planting.plant()


@pytest.fixture
def answers(home, monkeypatch):
    """Plan, preview and playground answered at the services' seam."""
    monkeypatch.setattr(plans, "ask", planting.plan_of)
    monkeypatch.setattr(data, "ask", planting.preview_of)
    monkeypatch.setattr(data, "ask_tokens", planting.tokens_of)
    monkeypatch.setattr(playing, "ask_examples", planting.examples_of)
    monkeypatch.setattr(playing, "ask_play", planting.answer_of)


@pytest.fixture
def cold():
    """Open a page by a deep link, without `app.py`."""

    def opened(page, /, **query):
        at = AppTest.from_file(str(ROOT / "pages" / f"{page}.py"), default_timeout=60)
        for name, value in query.items():
            at.query_params[name] = value
        return at.run()

    return opened
