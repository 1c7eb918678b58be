"""The page that decides in the browser: real Chromium, the shipped model, with a network and without."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from tests.engine.program import MODELS, Lines
from tests.engine.test_wasm import build_wasm
from tests.engine_library import build_engine

from smallhold.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LONGEST_MS = 60_000
TEXT = "Red, itchy patches on both elbows for a month, and the skin flakes."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build_wasm()
    out = tmp_path_factory.mktemp("page") / "hospital"
    keys = str(MODELS / "trusted_keys")
    assert main(["bundle", "page", str(MODELS / "hospital"), "--trusted-keys", keys, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: make system")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


def wait_until_ready(page: Page) -> None:
    page.locator("#state", has_text="without a network").wait_for(timeout=LONGEST_MS)


def triage(page: Page) -> str:
    """Ask by keyboard alone, and read the answer."""
    part = page.locator("section[data-task=triage]")
    part.locator("textarea").focus()
    page.keyboard.type(TEXT)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    part.locator(".evidence").wait_for(timeout=LONGEST_MS)
    return part.locator(".answer").inner_text()


@pytest.mark.parametrize(("scheme", "width"), [("light", 360), ("dark", 1280)])
def test_the_page_decides_as_the_program_does_and_asks_nobody(
    browser: Browser, folder: Path, serve: Callable[[Path], str], scheme: str, width: int
) -> None:
    url = serve(folder)
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    requests: list[str] = []
    complaints: list[str] = []
    context.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url, timeout=LONGEST_MS)
    wait_until_ready(page)
    assert "Not a medical device" in page.inner_text("body")
    is_relaxed = (folder / "smallhold_engine_relaxed.wasm").is_file()  # where somebody has built it
    assert f"({'relaxed-simd' if is_relaxed else 'simd128'})" in page.inner_text("#facts")
    answer = triage(page)
    build_engine()
    with Lines(MODELS / "hospital") as program:
        expected = program.ask(task="triage", text=TEXT)["answers"]["condition"]
    assert f"condition: {expected['choice']}" in answer
    assert "log-odds" in answer
    patient = page.locator("section[data-task=icu-risk]")
    patient.locator(".play").click()
    patient.locator(".evidence").wait_for(timeout=LONGEST_MS)
    assert "hour 48 of 48" in patient.inner_text()
    assert "simulated" in patient.inner_text()
    assert len((patient.locator("polyline").get_attribute("points") or "").split()) == 48
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [address for address in requests if not address.startswith(url)] == []
    assert complaints == []
    context.close()


def test_the_page_works_without_a_network_after_the_first_visit(
    browser: Browser, folder: Path, serve: Callable[[Path], str]
) -> None:
    context = browser.new_context()
    page = context.new_page()
    url = serve(folder)
    page.goto(url, timeout=LONGEST_MS)
    wait_until_ready(page)
    context.set_offline(True)
    page.reload(timeout=LONGEST_MS)
    wait_until_ready(page)
    assert "condition: " in triage(page)
    context.close()


def test_a_new_folder_is_taken_over_whole(
    browser: Browser, folder: Path, serve: Callable[[Path], str], tmp_path: Path
) -> None:
    served, other = tmp_path / "served", tmp_path / "other"
    shutil.copytree(folder, served)
    keys = str(MODELS / "trusted_keys")
    assert main(["bundle", "page", str(MODELS / "finance"), "--trusted-keys", keys, "--out", str(other)]) == 0
    url, context = serve(served), browser.new_context()

    def visit() -> str:
        page = context.new_page()
        page.goto(url, timeout=LONGEST_MS)
        wait_until_ready(page)
        said = page.inner_text("header") + " ".join(page.locator("h2").all_inner_texts())
        page.close()
        return said

    assert "hospital 1.0.0" in visit()
    shutil.rmtree(served)
    shutil.copytree(other, served)
    visits = [visit() for _ in range(6)]
    assert "finance 1.0.0" in visits[-1]
    for said in visits:  # never a page of one and a model of the other
        assert ("finance 1.0.0" in said) == ("support-intent" in said) != ("triage" in said)
    context.close()


@pytest.mark.parametrize("name", ["bundle.zip", "keys.pem", "smallhold_engine*.wasm"])
def test_the_page_refuses_files_that_were_changed(
    browser: Browser, folder: Path, serve: Callable[[Path], str], tmp_path: Path, name: str
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    for path in changed.glob(name):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data if path.suffix != ".wasm" else data[: len(data) // 2])
    page = browser.new_page()
    page.goto(serve(changed), timeout=LONGEST_MS)
    page.locator("#state", has_text="Cannot decide here").wait_for(timeout=LONGEST_MS)
    assert page.locator("section").count() == 0
    page.close()


def test_a_folder_that_exists_and_a_module_that_does_not_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bundle", "page", str(MODELS / "hospital"), "--trusted-keys", str(MODELS / "trusted_keys"), "--out"]
    assert main([*words, str(folder)]) != 0
    assert "exists already" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "new"), "--engine", str(tmp_path / "none.wasm")]) != 0
    assert "none.wasm" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
