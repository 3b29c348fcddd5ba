"""The whole way in a real Chromium: Build, Runs, Compare, and an adapter exported as peft and verified."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.conftest import ROOT

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]


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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-P", "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    with open(tmp_path / "server.log", "wb") as log:
        server = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: healthy(port), 60, "the server does not answer")
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
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.set_default_timeout(60_000)
        yield tab
        tab.screenshot(path=tmp_path / "last.png")
        browser.close()


def healthy(port):
    """Whether the server answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def until(condition, seconds, what):
    """Wait for a true value and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s: {what}")


def fill(page, label, value):
    """Type into a field and leave it."""
    field = page.get_by_label(label, exact=True)
    field.fill(value)
    field.press("Enter")
    settle(page)


def settle(page):
    """Wait until the script has run."""
    page.wait_for_timeout(300)
    page.wait_for_function(
        "document.querySelector('[data-testid=stApp]')?.getAttribute('data-test-script-state') == 'notRunning'"
    )


def zipped(page):
    """The download behind Zip; a click that meets a rerun of the live list is repeated."""
    for last in (False, False, True):
        try:
            with page.expect_download(timeout=20_000) as download:
                page.get_by_role("button", name="Zip").click()
            return download.value
        except sync_api.TimeoutError:
            if last:
                raise
    return None


def test_from_a_form_to_a_verified_export(address, page, home):
    page.goto(f"{address}/build")  # a deep link to a fresh server
    page.get_by_role("heading", name="Build an experiment").wait_for()
    settle(page)
    fill(page, "Experiment", "journey")
    fill(page, "Use at most", "60")
    fill(page, "Test split", "0.03")
    fill(page, "Validation split", "0.02")
    fill(page, "Max steps", "4")
    fill(page, "Max length", "32")
    fill(page, "Seeds", "0")
    shown = page.get_by_test_id("stCode").nth(1)
    sync_api.expect(shown).to_contain_text("max_steps: 4")
    sync_api.expect(shown).to_contain_text("limit: 60")
    launch = page.get_by_role("button", name="Launch")
    sync_api.expect(launch).to_be_enabled(timeout=60_000)
    launch.click()

    page.wait_for_url("**/runs?experiment=journey-*", timeout=60_000)
    from workbench.services import results

    rows = until(lambda: over(results.job_rows()), 240, "the runs do not finish")
    assert {row["label"]: row["state"] for row in rows} == {"lora": "finished", "head_only": "finished"}
    sync_api.expect(
        page.get_by_test_id("stMarkdown").filter(has_text="finished 2")
    ).to_be_visible()  # the live table noticed by itself
    settle(page)

    page.get_by_role("link", name="Compare", exact=True).click()
    page.get_by_role("heading", name="Parameters and quality").wait_for()
    sync_api.expect(page.locator(".js-plotly-plot")).to_have_count(4)
    sync_api.expect(page.get_by_text("One seed, no interval")).to_be_visible()

    lora = next(row["run_id"] for row in rows if row["label"] == "lora")
    page.goto(f"{address}/adapters?adapter={lora}")
    page.get_by_role("button", name="Export and verify").click()
    page.get_by_text("verified", exact=True).wait_for(timeout=90_000)
    sync_api.expect(page.get_by_text("32 rows compared")).to_be_visible()
    settle(page)
    assert zipped(page).suggested_filename == f"{lora}-peft.zip"

    folder = home / "exports" / f"{lora}-peft"
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert (folder / "adapter_model.safetensors").stat().st_size > 1000
    assert not page.get_by_test_id("stException").count()


def over(rows):
    """The rows once every run is over."""
    return rows if rows and all(row["state"] in ("finished", "failed", "cancelled") for row in rows) else None
