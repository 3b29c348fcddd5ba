"""Compare in a real browser: sections by link, methods chosen on the chart, runs that finish meanwhile, and the report."""

import json
import os
import subprocess
import sys
import time

import pytest

from tests.browser.driving import MARKS, fits, settle, sync_api, until
from tests.conftest import ROOT
from tests.pages import planting
from workbench.core.paths import jobs_db, run_folder
from workbench.jobs import daemon
from workbench.jobs.store import Store

pytestmark = [*MARKS, pytest.mark.slow]
EVIL = "<img src=x onerror=window.hacked=1>"


STAND_IN = """
import os, time
from workbench.core.locks import Alive
from workbench.jobs import daemon, detach, processes, wire
lock = Alive(daemon._lock_file())
assert lock.take()
mine = {"pid": os.getpid(), "pid_created": processes.created(os.getpid()), "code": detach.code_stamp(), "started": 0.0}
wire.write_json(daemon.ready_file(), mine)
time.sleep(600)
"""


@pytest.fixture
def idle(home):
    """A process that the server takes for the daemon; it never starts anything."""
    process = subprocess.Popen([sys.executable, "-c", STAND_IN], env={**os.environ, "PYTHONPATH": str(ROOT)})
    until(lambda: daemon.status()["running"], 30, "the stand-in is not ready")
    yield
    process.kill()
    process.wait()


def plant():
    """Two methods with three seeds, one with a hostile label, and a run that is still queued; returns its job."""
    with Store(jobs_db()) as store:
        for method, base in (("head_only", 0.6), ("lora", 0.8)):
            for seed, wobble in enumerate((0.0, 0.02, -0.01)):
                planting.plant_run(store, f"{method}-s{seed}-browser", method, seed, accuracy=base + wobble)
        store._db.execute("UPDATE jobs SET label=? WHERE method='head_only'", (EVIL,))
        return planting.plant_run(store, "lora-s3-browser", "lora", 3, "queued")


def finish(job):
    """The queued run ends, as the daemon would end it."""
    with Store(jobs_db()) as store:
        folder = run_folder("lora-s3-browser")
        verdict = {
            "state": "finished",
            "reason": None,
            "attempt": 1,
            "ended": time.time(),
            "result": planting.result("lora", 0.83),
        }
        (folder / "verdict.json").write_text(json.dumps(verdict))
        store._set(job, {"state": "finished", "step": 4, "steps": 4, "started": 1.0, "ended": 2.0}, ("queued",))


def box(page, plot):
    """Draw a box over the right half of a figure."""
    plot.scroll_into_view_if_needed()
    at = plot.bounding_box()
    page.mouse.move(at["x"] + 0.5 * at["width"], at["y"] + 60)
    page.mouse.down()
    page.mouse.move(at["x"] + 0.98 * at["width"], at["y"] + at["height"] - 90, steps=8)
    page.mouse.up()
    settle(page)


def test_from_the_headline_to_chosen_runs_and_a_report(idle, address, page, tmp_path):
    job = plant()
    page.goto(f"{address}/compare?experiment=first")
    page.get_by_text("lora has the highest mean accuracy").wait_for()
    settle(page)
    assert fits(page)
    assert page.url.endswith(f"experiment={planting.EXPERIMENT}")

    page.get_by_role("tab", name="Is it really better?").click()
    sync_api.expect(page.locator(".js-plotly-plot")).to_have_count(2)
    settle(page)
    assert "tab=better" in page.url
    assert fits(page)

    page.get_by_role("tab", name="Trade-offs").click()
    page.wait_for_url("**tab=tradeoffs**")  # the tab before has as many figures, and they go
    settle(page)
    sync_api.expect(page.locator(".js-plotly-plot")).to_have_count(2)
    box(page, page.locator(".js-plotly-plot").first)
    page.wait_for_url("**pick=lora**")
    assert fits(page)
    link = page.url

    finish(job)  # the page notices by itself and keeps what was chosen
    sync_api.expect(page.get_by_text("(7 of 7 runs)")).to_be_visible(timeout=30_000)
    settle(page)
    assert page.url == link

    page.goto(link)
    page.get_by_role("button", name="Run more seeds of these").wait_for()
    settle(page)
    chosen = page.get_by_test_id("stMultiSelect").last
    sync_api.expect(chosen).to_contain_text("lora")
    page.get_by_role("button", name="Export").click()
    page.get_by_role("link", name="lora, seed 1").click()
    page.wait_for_url("**/adapters?adapter=lora-s1-browser")

    page.goto(link)
    settle(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Report").click()
    file = tmp_path / "report.html"
    download.value.save_as(file)
    assert not page.get_by_test_id("stException").count()
    assert page.evaluate("window.hacked") is None

    page.route("http*://**", lambda route: route.abort())
    page.goto(file.as_uri())
    sync_api.expect(page.locator(".js-plotly-plot").first).to_be_visible()
    assert page.locator(".js-plotly-plot").count() >= 8
    assert page.get_by_text(EVIL).count() > 1
    assert page.evaluate("window.hacked") is None
    page.unroute("http*://**")
