"""The portal in a real browser: what a clinician sees, clicks and is told; no script error, no blocked request."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Page, Request, async_playwright, expect

from cloud.db import AdviceRow
from core.messages import DoseAdvice, Sample, decode, encode
from core.units import US_PER_MIN
from tests.cloud import filled
from tests.cloud.portal_process import portal

# Headless, and without the services by which a browser calls home: the tests see loopback only.
ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_MS = 30_000
PHONE = {"width": 390, "height": 844}

pytestmark = pytest.mark.system


@asynccontextmanager
async def page_of(base: str, problems: list[str]) -> AsyncIterator[Page]:
    """A new browser's page. What the page itself complains of is added to ``problems``."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium is not None, "chromium is missing (mend: apt install chromium, or run make test)"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=list(ARGS))
        try:
            page = await browser.new_page(base_url=base)
            page.set_default_timeout(PATIENCE_MS)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
            page.on("requestfailed", lambda r: problems.extend(failure(r)))
            yield page
        finally:
            await browser.close()


def failure(request: Request) -> list[str]:
    """What went wrong with a request; a navigation that another one overtook did not fail."""
    if request.is_navigation_request() and request.failure == "net::ERR_ABORTED":
        return []
    return [f"failed: {request.url} ({request.failure})"]


async def login(page: Page, folder: Path) -> None:
    await page.goto("/")
    await page.get_by_label("Name").fill("clinician")
    await page.get_by_label("Password").fill((folder / "portal.password").read_text().strip())
    await page.get_by_role("button", name="Log in").click()
    await page.get_by_role("link", name=filled.PERSON).click()


async def test_a_clinician_logs_in_sees_the_chart_and_approves(tmp_path: Path) -> None:
    db = filled.open_database(tmp_path)
    with db.write() as session:
        filled.fill(session)
    problems: list[str] = []
    with portal(tmp_path) as base:
        async with page_of(base, problems) as page:
            await login(page, tmp_path)
            await expect(page.locator("canvas").first).to_be_visible(timeout=PATIENCE_MS)
            drawn = await page.locator("canvas").first.evaluate(
                "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size"
            )
            assert drawn > 20, "the chart is an empty picture"

            await page.get_by_role("button", name="Approve").click()
            await page.get_by_label("Note (optional)").fill("After our call")
            await page.get_by_role("button", name="Approve and send").click()
            await expect(page.get_by_text("approved, going out").first).to_be_attached(timeout=PATIENCE_MS)

            await page.set_viewport_size(PHONE)
            # The chart is drawn anew for its width a moment later.
            await page.wait_for_function(
                "document.documentElement.scrollWidth <= window.innerWidth", timeout=PATIENCE_MS
            )

            await page.get_by_role("button", name="Log out").click()
            await expect(page.get_by_label("Password")).to_be_visible(timeout=PATIENCE_MS)
            await page.go_back()
            await expect(page.get_by_text(filled.PERSON)).to_have_count(0)
    with db.read() as session:
        row = session.get(AdviceRow, "hub-1-1")
        assert row is not None
        assert (row.state, row.decided_by, row.note) == ("approved", "clinician", "After our call")
        assert decode(row.body, DoseAdvice).approved_by == "clinician"
    db.close()
    assert problems == []


async def test_a_past_or_eaten_meal_says_so_and_offers_no_approval(tmp_path: Path) -> None:
    data_us = filled.NOW_US - 3 * US_PER_MIN
    past, eaten = filled.advice("hub-1-2", for_time_us=filled.NOW_US - 1), filled.advice("hub-2-1")
    db = filled.open_database(tmp_path)
    with db.write() as session:
        filled.fill(session)
        session.delete(session.get(AdviceRow, "hub-1-1"))
        session.add(
            AdviceRow(
                advice_id="hub-1-2", hub_id="hub-1", created_us=data_us, state="proposed", body=encode(past)
            )
        )
        filled.fill(session, "hub-2", "Two")
        filled.add_samples(session, [Sample(filled.NOW_US, "carbs_g", eaten.carbs_g, "hand", 1)], "hub-2")
    db.close()
    problems: list[str] = []
    with portal(tmp_path) as base:
        async with page_of(base, problems) as page:
            await login(page, tmp_path)
            for path, why in (
                ("/person/hub-1", "the time of its meal has passed"),
                ("/person/hub-2", "food for it is on record already"),
            ):
                await page.wait_for_load_state("networkidle")  # what is still loading would count as failed
                await page.goto(path)
                await page.get_by_text("lapsed undecided").first.click()
                card = page.get_by_text(f"It cannot be approved any more: {why}.")
                await expect(card).to_be_visible(timeout=PATIENCE_MS)
                await expect(page.get_by_text("Nothing waits for a decision.")).to_be_visible()
                await expect(page.get_by_role("button", name="Approve")).to_have_count(0)
    assert problems == []
