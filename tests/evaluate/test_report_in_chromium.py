"""The report in a real browser: no scrolling sideways, no request, no complaint, in light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from smallhold.evaluate.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Without these the browser looks for its maker's servers at every start.
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: make system")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 820, 1280])
def test_the_report_fits_its_window_and_asks_for_nothing(
    browser: Browser, result: dict[str, Any], tmp_path: Path, width: int, scheme: Any
) -> None:
    path = write_report(result, tmp_path / "report.html")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path.as_uri(), timeout=20_000)
    assert requests == [path.as_uri()]
    assert complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("h1").count() == 1
    assert "Not a medical device" in page.inner_text("body")
    background, ink = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
    assert (_brightness(background) > _brightness(ink)) is (scheme == "light")
    page.close()


def test_a_keyboard_alone_reaches_and_opens_every_fold(
    browser: Browser, result: dict[str, Any], tmp_path: Path
) -> None:
    page = browser.new_page()
    page.goto(write_report(result, tmp_path / "report.html").as_uri(), timeout=20_000)
    folds = page.locator("details:not([open]) > summary").element_handles()
    assert folds
    for fold in folds:
        fold.focus()
        page.keyboard.press("Enter")
        assert fold.evaluate("element => element.parentElement.open")
    page.close()


def _brightness(colour: str) -> float:
    red, green, blue = (float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3])
    return 0.3 * red + 0.59 * green + 0.11 * blue
