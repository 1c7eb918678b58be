"""Texts read on WebGPU, in Chromium on SwiftShader: slow, and the same decisions."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from tests.browser.test_page import CHROMIUM, LONGEST_MS, QUIET, triage, wait_until_ready
from tests.engine.program import MODELS
from tests.engine.test_wasm import build_wasm

from smallhold.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
RUNTIME = Path(__file__).resolve().parents[2] / "browser" / "webgpu" / "node_modules" / "onnxruntime-web"
SOFTWARE_GPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
KEYS = str(MODELS / "trusted_keys")
WORDS = ["bundle", "page", str(MODELS / "hospital"), "--trusted-keys", KEYS, "--webgpu", "--out"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not RUNTIME.is_dir():
        pytest.skip("ONNX Runtime Web is missing: make webgpu")
    build_wasm()
    out = tmp_path_factory.mktemp("page") / "hospital"
    assert main([*WORDS, str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: make system")
    with sync_playwright() as playwright:
        words = [word for word in QUIET if word != "--disable-gpu"]
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=[*words, *SOFTWARE_GPU])
        yield opened
        opened.close()


def probabilities(page: Page) -> dict[str, float]:
    meters = page.locator("section[data-task=triage] meter")
    return dict(meters.evaluate_all("(found) => found.map((meter) => [meter.ariaLabel, meter.value])"))


def test_webgpu_decides_as_the_processor_does_and_asks_nobody(
    browser: Browser, folder: Path, serve: Callable[[Path], str]
) -> None:
    url = serve(folder)
    found = {}
    for trunk, said in (("webgpu", "WebGPU (google swiftshader), as asked"), ("processor", None)):
        context = browser.new_context()
        page = context.new_page()
        requests: list[str] = []
        complaints: list[str] = []
        context.on("request", lambda request, to=requests: to.append(request.url))
        page.on("console", lambda message, to=complaints: to.append(message.text))
        page.on("pageerror", lambda error, to=complaints: to.append(str(error)))
        page.goto(f"{url}?trunk={trunk}", timeout=LONGEST_MS)
        wait_until_ready(page)
        if said:
            page.locator("#facts", has_text=said).wait_for(timeout=LONGEST_MS)
        answer = triage(page)
        assert ("ms on the WebGPU" if said else "ms on the processor") in answer
        found[trunk] = probabilities(page)
        assert [address for address in requests if not address.startswith(url)] == []
        assert complaints == []
        context.close()
    # The graph rounds activations to 8 bits as the engine does, its functions in another order.
    assert found["webgpu"].keys() == found["processor"].keys()
    assert found["webgpu"] == pytest.approx(found["processor"], abs=0.01)
    assert found["webgpu"] != found["processor"], "one and the same trunk has answered twice"


def test_the_faster_one_is_measured(browser: Browser, folder: Path, serve: Callable[[Path], str]) -> None:
    page = browser.new_page()
    page.goto(serve(folder), timeout=LONGEST_MS)
    wait_until_ready(page)
    # One that is emulated cannot be the faster one; on a busy machine it is given up.
    chosen = re.compile(r"processor: a text took .* ms on WebGPU \(google swiftshader\)|it took more than 10 s")
    page.locator("#facts", has_text=chosen).wait_for(timeout=LONGEST_MS)
    assert "ms on the processor" in triage(page)
    page.close()


@pytest.mark.parametrize("reason", ["no graphics processor", "trunk.onnx is not the signed one"])
def test_texts_are_read_without_webgpu(
    browser: Browser, folder: Path, serve: Callable[[Path], str], tmp_path: Path, reason: str
) -> None:
    served = tmp_path / "served"
    shutil.copytree(folder, served)
    page = browser.new_page()
    if reason.startswith("trunk"):
        data = bytearray((served / "trunk.onnx").read_bytes())
        data[len(data) // 2] ^= 1
        (served / "trunk.onnx").write_bytes(data)
    else:
        module = served / "webgpu_trunk.js"  # a worker's navigator is out of a test's reach
        module.write_text(module.read_text().replace("navigator.gpu?.requestAdapter()", "null"))
    page.goto(serve(served), timeout=LONGEST_MS)
    page.locator("#facts", has_text=reason).wait_for(timeout=LONGEST_MS)
    assert "condition: " in triage(page)
    page.close()


def test_the_page_with_webgpu_works_without_a_network(
    browser: Browser, folder: Path, serve: Callable[[Path], str]
) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(serve(folder), timeout=LONGEST_MS)
    wait_until_ready(page)
    context.set_offline(True)
    page.reload(timeout=LONGEST_MS)
    wait_until_ready(page)
    page.locator("#facts", has_text="Texts read by").wait_for(timeout=LONGEST_MS)
    assert "condition: " in triage(page)
    context.close()


def test_what_webgpu_needs_is_named(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {"trunk.onnx", "onnxruntime-LICENSE", "onnxruntime-ThirdPartyNotices.txt"} <= names
    listed = (folder / "offline.js").read_text()
    assert all(f'"{name}"' in listed for name in names - {"offline.js"}), "not kept for use without a network"
