"""The design in a real browser: keys, copying, dialogs, themes, the drawer, no sideways scrolling, nothing refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

PAGES = ("components", "fleet", "instance", "plan", "run", "segment")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Playwright runs a loop in this thread; the database is only touched by the live server's own thread.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture
def address(settings: Any, live_server: Any) -> str:
    settings.ROOT_URLCONF = "tests.gallery.urls"
    folders = [ROOT / "templates", ROOT / "tests/gallery/templates"]
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": folders}]
    url: str = live_server.url
    return url


def opened(browser: Any, url: str, width: int = 1440, **options: Any) -> tuple[Any, list[str]]:
    """A page at that address, and what the browser complained about."""
    page = browser.new_context(viewport={"width": width, "height": 900}, **options).new_page()
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(m.text) if m.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    return page, complaints


@pytest.mark.parametrize("width", [1440, 1280, 720, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_scrolls_sideways_and_nothing_is_refused(browser: Any, address: str, width: int, scheme: str) -> None:
    for name in PAGES:
        page, complaints = opened(browser, f"{address}/gallery/{name}/", width, color_scheme=scheme)
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider <= 0, name
        assert complaints == [], name
        page.context.close()


def test_keys(browser: Any, address: str) -> None:
    page, complaints = opened(browser, f"{address}/gallery/fleet/")
    page.keyboard.press("?")
    assert page.locator("#keys").evaluate("dialog => dialog.open")
    assert "Fleet" in page.locator("#keys").inner_text()
    page.keyboard.press("g")
    page.keyboard.press("r")
    assert page.url.endswith("/fleet/"), "a dialog keeps the keys to itself"
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("g r j ?")
    assert page.locator("#search").input_value() == "g r j ?"
    page.locator("h1").click()
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.locator("tr.is-cursor").inner_text().startswith("Error")
    assert page.evaluate("document.activeElement.textContent") == "catalog-prod"
    page.keyboard.press("k")
    assert page.evaluate("document.activeElement.textContent") == "rag-prod-eu"
    page.keyboard.press("g")
    page.keyboard.press("r")
    page.wait_for_url("**/gallery/run/")
    assert complaints == []


def test_dialog_has_its_focus_on_cancel_and_enter_destroys_nothing(browser: Any, address: str) -> None:
    page, complaints = opened(browser, f"{address}/gallery/components/")
    page.get_by_role("button", name="Destructive…").click()
    assert page.evaluate("document.activeElement.textContent.trim()") == "Cancel"
    page.keyboard.press("Enter")
    assert not page.locator("#delete").evaluate("dialog => dialog.open")
    assert complaints == []


def test_copy_gives_the_exact_text(browser: Any, address: str) -> None:
    page, _ = opened(
        browser, f"{address}/gallery/segment/", permissions=["clipboard-read", "clipboard-write"], color_scheme="dark"
    )
    button = page.locator(".page-sub .copy")
    button.click()
    page.wait_for_selector(".page-sub .copy.is-done")
    assert page.evaluate("navigator.clipboard.readText()") == "7c1e9a04-52f3-4b6e-9d0b-e1f6a2c38b57"


def test_theme_is_kept_and_the_server_writes_it_into_the_next_page(browser: Any, address: str) -> None:
    page, _ = opened(browser, f"{address}/gallery/fleet/", color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(246, 247, 249)"
    page.get_by_role("button", name="Dark", exact=True).click()
    assert page.evaluate(ground) == "rgb(15, 17, 21)"
    answer = page.request.get(f"{address}/gallery/run/").text()
    assert '<html lang="en" data-theme="dark">' in answer
    page.goto(f"{address}/gallery/run/")
    assert page.evaluate(ground) == "rgb(15, 17, 21)"
    assert page.locator("[data-theme-choice=dark]").get_attribute("aria-pressed") == "true"


def test_drawer_and_menus_open_and_close(browser: Any, address: str) -> None:
    page, _ = opened(browser, f"{address}/gallery/instance/", 390)
    assert not page.locator("#nav").is_visible()
    page.get_by_role("button", name="Open the navigation").click()
    assert page.locator("#nav").is_visible()
    assert page.evaluate("document.activeElement.dataset.nav") == "fleet"
    page.keyboard.press("Escape")
    page.locator("#nav").wait_for(state="hidden")
    page.get_by_text("Operations", exact=True).click()
    assert page.get_by_text("You need the role approver on rag-prod-eu.").is_visible()
    page.keyboard.press("ArrowDown")
    assert "db check" in page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert page.locator("details[data-menu][open]").count() == 0


def test_cancel_is_focused_without_scrolling_what_has_to_be_read_away(browser: Any, address: str) -> None:
    page, _ = opened(browser, f"{address}/gallery/plan/")
    assert page.evaluate("document.activeElement.textContent.trim()") == "Cancel"
    assert page.evaluate("scrollY") == 0


def test_tabs_of_the_call(browser: Any, address: str) -> None:
    page, _ = opened(browser, f"{address}/gallery/plan/")
    page.get_by_role("tab", name="Command line").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("tab", name="Audited command").get_attribute("aria-selected") == "true"
    assert page.get_by_text("python manage.py run hnsw_rebuild").is_visible()
    assert not page.get_by_text("python -m ops hnsw rebuild").is_visible()


def test_the_first_tab_stop_skips_to_the_content(browser: Any, address: str) -> None:
    page, _ = opened(browser, f"{address}/gallery/fleet/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
