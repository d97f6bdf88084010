"""A headless Chromium that opens the page: for its pictures and its tests. Needs playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from econ_pyro.errors import EconError

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTHS = (1280, 480)  # a desktop's window, and a narrow one
TABS = ("Take apart", "Compose", "What the experts know")


@contextmanager
def chromium() -> Iterator[Any]:
    """Playwright's browser, on the Chromium of this machine.

    Raises:
        EconError: playwright or Chromium is missing.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise EconError(
            "playwright, to open the page", "a Python without it", "pip install playwright"
        ) from error
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        raise EconError(
            f"a browser called {' or '.join(NAMES)}",
            "none on this machine",
            "on Debian: apt-get install chromium",
        )
    with sync_playwright() as playwright:
        # pages of our own alone are opened; the sandbox does not work for root, as in containers
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def screenshots(address: str, folder: Path) -> list[Path]:
    """Pictures of each tab, with an example scene taken apart, at ``WIDTHS``.

    Args:
        address: where the page is served.
        folder: made if needed.

    Returns:
        The PNG files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with chromium() as browser:
        for width in WIDTHS:
            page = browser.new_page(viewport={"width": width, "height": 900})
            open_page(page, address)
            if page.locator("#example").count():
                page.click("#example")
                page.wait_for_selector("#apart-picture img")
            for tab in TABS:
                open_tab(page, tab)
                page.wait_for_timeout(500)  # the tabs' colours fade
                name = tab.lower().replace(" ", "-")
                path = folder / f"{name}-{width}.png"
                page.screenshot(path=path, full_page=True)
                written.append(path)
            page.close()
    return written


def open_page(page: Any, address: str) -> None:
    """Load the page and wait until its tabs have found their places."""
    page.goto(address)
    page.locator("[role=tablist] [role=tab]").first.wait_for()
    page.wait_for_timeout(300)


def open_tab(page: Any, name: str) -> None:
    """Show a tab; in a narrow window it may be in the menu of those that do not fit."""
    tab = page.get_by_role("tab", name=name, exact=True).first
    if not tab.is_visible():
        page.locator(".overflow-menu > button").click()
        tab = page.locator(".overflow-dropdown button", has_text=name)
    tab.click()
