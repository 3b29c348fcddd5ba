"""From a link to a method's card, and through searches that find some and none, in a real Chromium."""

import pytest

from tests.browser.driving import MARKS, fill, fits, settle, sync_api

pytestmark = [*MARKS, pytest.mark.slow]


def test_from_a_link_to_a_card_and_a_search(address, page):
    page.goto(f"{address}/methods?method=lora")  # a deep link to a fresh server
    page.get_by_role("heading", name="Methods").wait_for()
    settle(page)
    card = page.get_by_role("heading", name="LoRA", exact=True)
    sync_api.expect(card).to_be_visible()
    sync_api.expect(page.get_by_role("link", name="Hu et al.")).to_have_attribute("href", "https://arxiv.org/abs/2106.09685")
    sync_api.expect(page.get_by_test_id("stCode").first).to_contain_text("A")
    assert fits(page)

    counted = page.get_by_text("methods and presets; tick one")
    before = counted.inner_text()
    fill(page, "Search", "kronecker")
    sync_api.expect(counted).not_to_have_text(before)
    few, _, many = counted.inner_text().split(" methods")[0].partition(" of ")
    assert 0 < int(few) < int(many)
    fill(page, "Search", "no such thing")
    sync_api.expect(page.get_by_text("No method fits")).to_be_visible()
    assert not page.get_by_test_id("stException").count()
