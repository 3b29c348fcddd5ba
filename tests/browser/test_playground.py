"""From a link to answers side by side: two really trained adapters of a tiny base, asked in a real Chromium."""

import csv

import pytest

from tests.browser.driving import MARKS, fits, settle, sync_api, until

pytestmark = [*MARKS, pytest.mark.slow]


def test_from_a_link_to_answers_side_by_side(address, page, runs, tmp_path):
    from workbench import export as exports

    text = "good film is very great"
    (tmp_path / "ask.csv").write_text(f"review\n{text}\nbad plot\n")
    said = {}
    for name, run in runs.items():
        exports.predict(run, tmp_path / "ask.csv", tmp_path / f"{name}.csv")
        said[name] = next(csv.DictReader((tmp_path / f"{name}.csv").open()))

    page.goto(
        f"{address}/playground?" + "&".join(f"adapter={run.name}" for run in runs.values())
    )  # a deep link to a fresh server
    page.get_by_role("heading", name="Playground").wait_for()
    settle(page)
    examples = page.locator("[class*=st-key-playground-example]").get_by_role("button")
    sync_api.expect(examples).to_have_count(4, timeout=60_000)
    examples.nth(1).click()
    settle(page)
    page.get_by_role("button", name="Compare side by side").click()
    page.get_by_text("True label:").wait_for()
    assert page.get_by_text("right", exact=True).count() + page.get_by_text("wrong", exact=True).count() == 2

    box = page.get_by_role("textbox", name="Text")
    box.fill(text)
    box.press("Control+Enter")
    settle(page)
    sync_api.expect(page.get_by_text("have changed")).to_be_visible()
    box.press("Tab")  # the button is next for the keyboard
    page.keyboard.press("Enter")
    page.get_by_text("Base with a trained head").wait_for()
    settle(page)
    assert page.get_by_text("True label:").count() == 0
    for one in said.values():
        sync_api.expect(page.get_by_text(f"{one['prediction']} · {float(one['score']):.3f}").first).to_be_visible()
    assert page.get_by_role("progressbar").count() == 4
    sync_api.expect(page.get_by_text("ms, median of")).to_have_count(2)
    verdict = "same as base" if said["lora"]["prediction"] == said["head_only"]["prediction"] else "differs from base"
    sync_api.expect(page.get_by_text(verdict)).to_be_visible()
    assert fits(page)

    page.get_by_text("Predict on a file").click()
    page.locator("[class*=st-key-adapters-file] input[type=file]").set_input_files(tmp_path / "ask.csv")
    page.get_by_role("button", name="Predict", exact=True).click()
    page.get_by_text("2 rows predicted.").wait_for()
    page.reload()
    settle(page)
    for run in runs.values():
        until(lambda name=run.name: page.get_by_text(name).count(), 30, "the link names the adapters")
    assert not page.get_by_test_id("stException").count()
    assert not page.get_by_test_id("stAlertContentError").count()
