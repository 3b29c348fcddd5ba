"""The whole way in a real Chromium: Build, Runs, Compare, Run, and an adapter exported as peft and verified."""

import json

from tests.browser.driving import MARKS, fill, fits, settle, sync_api, until

pytestmark = MARKS


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
    page.get_by_text("has the highest mean accuracy").wait_for()
    sync_api.expect(page.locator(".js-plotly-plot")).to_have_count(1)
    sync_api.expect(page.get_by_text("One seed, no interval:")).to_be_visible()

    lora = next(row["run_id"] for row in rows if row["label"] == "lora")
    page.goto(f"{address}/run?run={lora}")
    page.get_by_role("heading", name="lora, seed 0").wait_for()
    settle(page)
    accuracy = next(row for row in results.results([rows[0]["experiment"]])["rows"] if row["run_id"] == lora)["metrics"][
        "accuracy"
    ]
    sync_api.expect(page.get_by_test_id("stMetric").filter(has_text="Accuracy")).to_contain_text(f"{accuracy:.3f}")
    sync_api.expect(page.locator(".js-plotly-plot").first).to_be_visible()
    for tab in ("Settings", "Environment"):
        page.get_by_role("tab", name=tab).click()
        settle(page)
        sync_api.expect(page.get_by_role("tabpanel", name=tab).get_by_test_id("stDataFrame")).to_be_visible()
    page.get_by_role("tab", name="Log").click()
    sync_api.expect(page.get_by_role("tabpanel", name="Log").get_by_test_id("stCode")).to_be_visible()
    assert fits(page)

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
