"""A home, a server and a tab of their own for each journey."""

import os
import subprocess
import sys

import pytest

from tests.browser import driving
from tests.conftest import ROOT
from tests.jobs.living import free_port

QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of its own; daemon and engine are stopped at the end, whatever happened."""
    from workbench.jobs import daemon, engine

    folder = (tmp_path / "home").resolve()
    folder.mkdir()
    monkeypatch.setenv("WORKBENCH_HOME", str(folder))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    yield folder
    daemon.stop()
    engine.stop(10)


@pytest.fixture
def address(home, tmp_path):
    """A fresh server on a free port."""
    port = free_port()
    command = [sys.executable, "-P", "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    with open(tmp_path / "server.log", "wb") as log:
        server = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        driving.until(lambda: driving.healthy(port), 60, "the server does not answer")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture
def page(tmp_path):
    """One tab of a real browser; `last.png` in the test's folder shows how it ended."""
    with driving.sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=driving.CHROMIUM, args=QUIET)
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.set_default_timeout(60_000)
        yield tab
        tab.screenshot(path=tmp_path / "last.png")
        browser.close()


@pytest.fixture
def runs(home, tmp_path):
    """LoRA and head only, trained here for a few steps; name -> run folder."""
    from tests.export.conftest import Trained
    from workbench.core.paths import jobs_db
    from workbench.jobs.store import Store

    trained = Trained(tmp_path)
    found = {name: trained(name) for name in ("head_only", "lora")}
    with Store(jobs_db()) as store:
        for name, folder in found.items():
            row = {
                "run_id": folder.name,
                "experiment": "tiny-abc123",
                "name": "tiny",
                "kind": "train",
                "label": name,
                "method": name,
            }
            (job,) = store.add([{**row, "seed": 0, "spec": f"runs/{folder.name}/spec.yaml"}])
            store._set(job, {"state": "finished"}, ("queued",))
    return found
