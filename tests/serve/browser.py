"""Chromium for the tests of the page. Debian's is used, since playwright's own would have to be downloaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 20_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a browser without windows; the test is skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'gptcli[test]'")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"needs Chromium: none of {', '.join(NAMES)} is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--headless", "--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, address: str, **context: Any) -> Iterator[Page]:
    """Yield the page at an address, and require that nothing was forbidden, failed, or asked for from elsewhere."""
    found = browser.new_context(**{"viewport": {"width": 1360, "height": 800}, "reduced_motion": "reduce", **context})
    page = found.new_page()
    page.set_default_timeout(PATIENCE_MS)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))
    page.on("console", lambda message: faults.append(message.text) if is_fault(message) else None)
    page.on("request", lambda request: None if request.url.startswith(address) else faults.append(request.url))
    try:
        page.goto(address)
        page.locator(".fact, #page-notice:visible, dialog[open], :text('No model is loaded')").first.wait_for()
        yield page
        assert faults == []
    finally:
        found.close()


def is_fault(message: Any) -> bool:
    """Whether a message of the console is one of the page; browsers report each failed request there too."""
    return message.type in ("error", "warning") and not message.text.startswith("Failed to load resource")


def violations(page: Page) -> list[str]:
    """What axe finds, in words."""
    from pathlib import Path

    import axe_core_python

    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate((Path(axe_core_python.__file__).parent / "axe.min.js").read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{rule['id']} ({rule['impact']}): {node['html'][:120]} {node['failureSummary'][:200]}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]
