"""Headless Chromium for screenshots and tests of the page. Requires playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from econ_pyro.errors import EconError

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTHS = (1280, 480)  # of a desktop window and of a narrow window, in pixels
TABS = ("Decompose", "Compose", "Experts")


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the installed Chromium under playwright.

    Raises:
        EconError: playwright or Chromium is missing.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise EconError(
            "the package playwright", "none installed", "pip install playwright"
        ) from error
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        raise EconError(
            f"a browser called {' or '.join(NAMES)}",
            "none on this machine",
            "on Debian: apt-get install chromium",
        )
    with sync_playwright() as playwright:
        # the sandbox does not work for root, as in containers; only our own page is opened
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def screenshots(address: str, folder: Path) -> list[Path]:
    """Write screenshots of each tab, with a decomposed example scene, in each of ``WIDTHS``.

    Args:
        address: address of the page.
        folder: output folder, created if needed.

    Returns:
        Paths of the PNG files.
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
                page.wait_for_timeout(500)  # animation of the tabs
                name = tab.lower().replace(" ", "-")
                path = folder / f"{name}-{width}.png"
                page.screenshot(path=path, full_page=True)
                written.append(path)
            page.close()
    return written


def open_page(page: Any, address: str) -> None:
    """Load the page and wait until the layout of its tabs is final."""
    page.goto(address)
    page.locator("[role=tablist] [role=tab]").first.wait_for()
    page.wait_for_timeout(300)


def open_tab(page: Any, name: str) -> None:
    """Open a tab, which may be in the overflow menu in a narrow window."""
    tab = page.get_by_role("tab", name=name, exact=True).first
    if not tab.is_visible():
        page.locator(".overflow-menu > button").click()
        tab = page.locator(".overflow-dropdown button", has_text=name)
    tab.click()
