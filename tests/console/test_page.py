"""The staff's page in real Chromium, over a real server and a real ward."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from tests.console.station import BAD, PASSWORD, Station
from tests.console.test_api import ALONE, said

from smallhold.assist.alarm import SIGNALS
from smallhold.console.app import STATIC
from smallhold.console.server import ServerOptions, serving
from smallhold.records import Priority

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
LONGEST_MS = 20_000
expect.set_options(timeout=LONGEST_MS)
AT_ONCE_MS = 2_000  # the page looks for silence itself after 6 s
# Stamps, by the page's own clock, when the stream broke or the browser went offline, and when the page said so.
STAMPS = """
window.stamps = {};
const stamp = (what) => { window.stamps[what] ??= performance.now(); };
window.addEventListener("offline", () => stamp("lost"));
window.EventSource = class extends EventSource {
  constructor(url) { super(url); this.addEventListener("error", () => stamp("lost")); }
};
new MutationObserver(() => {
  if (document.querySelector("#link")?.textContent === "DISCONNECTED") stamp("said");
}).observe(document, { subtree: true, childList: true, characterData: true });
"""
HOSTILE = '<img src=x onerror="window.pwned=1">\'"&{{7*7}}</script><script>window.pwned=1</script>'

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: make system")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


class Screen:
    """A page of the console, with everything that the browser complained about."""

    def __init__(
        self, browser: Browser, station: Station, *, width: int = 1280, height: int = 900, **more: Any
    ) -> None:
        self.stack = ExitStack()
        self.station = station
        self.url = self.stack.enter_context(serving(station.app, ServerOptions(port=0)))
        self.context: BrowserContext = browser.new_context(viewport={"width": width, "height": height}, **more)
        self.context.set_default_timeout(LONGEST_MS)
        self.complaints: list[str] = []
        self.page: Page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._hear)

    def _hear(self, message: Any) -> None:
        if message.type == "error" and "401" not in message.text and "ERR_CONNECTION" not in message.text:
            self.complaints.append(message.text)

    def log_in(self, name: str) -> Page:
        self.page.goto(self.url)
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name="Log in").click()
        return self.page

    def close(self) -> None:
        self.context.close()
        self.stack.close()


@pytest.fixture
def screen(browser: Browser, station: Station) -> Iterator[Screen]:
    made = Screen(browser, station)
    yield made
    made.close()


def test_a_shift_of_a_physician(screen: Screen) -> None:
    station = screen.station
    station.put("bed-1", ALONE)
    station.put("bed-2")
    station.wait(lambda: any(p.proposal.source == "model" for p in station.recorder.bed("bed-1").proposals.values()))
    page = screen.log_in("Paul")
    # An alarm is seen: its card stands first, its lamp flashes, and it is read out.
    first = page.locator(".bed").first
    expect(first).to_contain_text("bed-1")
    expect(first).to_contain_text("MEDIUM")
    expect(first.locator(".lamp.medium.flash")).to_have_count(1)
    expect(page.locator("#polite")).to_contain_text("MEDIUM, bed-1:")
    expect(page.locator("#head")).to_contain_text("Not a medical device")
    expect(page.locator("#marks")).to_contain_text("SIMULATED PATIENTS")
    expect(page.locator("#link")).to_have_text("connected")
    # Its evidence.
    first.get_by_role("link", name="bed-1").click()
    proposal = page.locator("#proposals > li").filter(has_text="Carried by")
    expect(proposal.locator(".effects li").first).to_contain_text("HR 118")
    expect(page.locator("figure.cited")).to_have_count(2)
    assert page.locator(".evidence-mark").count() == 2
    # Overridden, with a reason.
    proposal.get_by_role("button", name="Override").click()
    page.get_by_label("Reason").fill("agitated, not ill")
    page.get_by_role("dialog").get_by_role("button", name="Override").click()
    expect(proposal).to_contain_text("overridden: Paul")
    assert said(station, "feedback")[-1]["reason"] == "agitated, not ill"
    # A dose is prescribed, given and confirmed.
    page.get_by_role("button", name="Prescribe").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Drug").fill("paracetamol")
    dialog.get_by_label("Dose", exact=True).fill("500")
    dialog.get_by_role("button", name="Prescribe").click()
    page.locator("#plan").get_by_role("button", name="Give").click()
    page.get_by_role("dialog").get_by_role("button", name="It is given now").click()
    expect(page.get_by_text("given · Paul")).to_be_visible()
    assert station.care.board("bed-1").given()[0].actor == "Paul"
    # The patient is written to.
    page.get_by_label("New message").fill("Please ring when you feel dizzy.")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".bubble")).to_have_text("Please ring when you feel dizzy.")
    # The record is whole.
    page.get_by_role("link", name="Record").click()
    page.get_by_role("button", name="Verify everything").click()
    expect(page.locator("#verification")).to_contain_text("Intact:")
    # Another language, which is remembered.
    page.get_by_label("Language").select_option("fr")
    expect(page.get_by_role("link", name="Registre")).to_be_visible()
    page.reload()
    expect(page.get_by_role("link", name="Registre")).to_be_visible()
    page.get_by_label("Langue").select_option("ru")
    page.get_by_role("link", name="Отделение").click()
    expect(page.locator(".bed").first).to_contain_text("ЧСС")
    assert page.evaluate("document.documentElement.lang") == "ru"
    assert screen.complaints == []


def test_a_lost_network_is_said_at_once_and_forgotten_when_it_is_back(screen: Screen) -> None:
    station = screen.station
    station.put("p")
    screen.context.add_init_script(STAMPS)
    page = screen.log_in("Nora")
    expect(page.locator(".bed")).to_have_count(1)
    port = int(re.search(r":(\d+)/", screen.url)[1])  # type: ignore[index]
    screen.stack.close()
    expect(page.locator("#link")).to_have_text("DISCONNECTED")
    assert _silent_ms(page) < AT_ONCE_MS
    expect(page.locator("#banner")).to_contain_text("Look at the patients.")
    expect(page.locator(".bed.old")).to_have_count(1)
    station.put("q", BAD)  # while nobody could see
    screen.stack.enter_context(serving(station.app, ServerOptions(port=port)))
    expect(page.locator("#link")).to_have_text("connected")
    expect(page.locator(".bed").first).to_contain_text("q")
    expect(page.locator("#banner")).not_to_contain_text("DISCONNECTED")
    page.evaluate("window.stamps = {}")
    screen.context.set_offline(True)
    expect(page.locator("#link")).to_have_text("DISCONNECTED")
    assert _silent_ms(page) < AT_ONCE_MS
    screen.context.set_offline(False)
    expect(page.locator("#link")).to_have_text("connected")


def _silent_ms(page: Page) -> float:
    stamps = page.evaluate("window.stamps")
    return float(stamps["said"] - stamps["lost"])


def test_a_ward_that_stands_still_is_said_too(screen: Screen) -> None:
    screen.station.put("p")
    page = screen.log_in("Nora")
    expect(page.locator("#link")).to_have_text("connected")
    screen.station.app.state.console.broadcaster._picture = lambda: screen.station.ward.call(lambda: None, 0.0)
    expect(page.locator("#link")).to_have_text("ward does not answer")
    expect(page.locator("#banner")).to_contain_text("Look at the patients.")


def test_hostile_text_stays_text_everywhere(screen: Screen) -> None:
    station = screen.station
    patient = '<img src=x onerror="window.pwned=1">'
    station.put(patient, ALONE)
    station.wait(lambda: any(p.proposal.source == "model" for p in station.recorder.bed(patient).proposals.values()))
    page = screen.log_in("Paul")
    page.locator(".bed a").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(patient)
    page.get_by_label("New message").fill(HOSTILE)
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".bubble")).to_have_text(HOSTILE)
    proposal = page.locator("#proposals > li").filter(has_text="Carried by")
    proposal.get_by_role("button", name="Override").click()
    page.get_by_label("Reason").fill(HOSTILE)
    page.get_by_role("dialog").get_by_role("button", name="Override").click()
    expect(page.locator("#bed-history")).to_contain_text(HOSTILE)
    page.get_by_role("button", name="Prescribe").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Drug").fill(HOSTILE[:64])
    dialog.get_by_label("Dose", exact=True).fill("1")
    dialog.get_by_role("button", name="Prescribe").click()
    expect(page.locator("#plan")).to_contain_text(HOSTILE[:64])
    page.goto(screen.url + "#/bed/" + "%3Cimg src=x onerror=window.pwned=1%3E")
    expect(page.get_by_role("alert").filter(has_text="no such patient")).to_be_visible()
    page.goto(screen.url + "#/audit")
    page.get_by_label("Kind").select_option("message")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.locator("tbody summary").click()
    assert page.evaluate("window.pwned") is None
    assert [c for c in screen.complaints if "404" not in c] == []


def test_everything_can_be_done_by_keyboard(screen: Screen) -> None:
    station = screen.station
    station.put("p", BAD)
    page = screen.page
    page.goto(screen.url)
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type("Nora")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.locator(".bed").wait_for()
    expect(page.locator("#urgent")).to_contain_text("HIGH, p: NEWS2 9")
    _tab_to(page, "p")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("p")
    page.locator("#alerts button").first.wait_for()
    _tab_to(page, "Acknowledge")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(page.locator("#alerts")).to_contain_text("acknowledged")
    assert said(station, "staff")[-1]["actor"] == "Nora"
    # A pause is shown at the bed and can be ended there.
    station.put("q", BAD)
    page.goto(screen.url + "#/bed/q")
    page.get_by_role("button", name="Pause sound (2 min)").click()
    expect(page.locator("#alerts")).to_contain_text("AUDIO PAUSED")
    page.get_by_role("button", name="Sound again").click()
    expect(page.locator("#alerts")).not_to_contain_text("AUDIO PAUSED")


def _tab_to(page: Page, text: str) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == text:
            return
    raise AssertionError(f"{text!r} cannot be reached by Tab")


def test_a_page_is_never_silent_without_a_sign(browser: Browser, station: Station) -> None:
    station.put("p", BAD)
    screen = Screen(browser, station)
    page = screen.log_in("Nora")
    expect(page.locator("#sound")).to_have_text("Sound is on")  # logging in was the gesture
    played = "async () => (await import('/static/sound.js')).played"
    page.wait_for_function("async () => (await import('/static/sound.js')).played > 0")
    page.locator("#sound").click()
    expect(page.locator("#banner")).to_contain_text("AUDIO PAUSED on this screen")
    before = page.evaluate(played)
    time.sleep(1.5)
    assert page.evaluate(played) == before
    page.locator("#sound").click()
    expect(page.locator("#banner")).not_to_contain_text("AUDIO PAUSED")
    page.reload()  # no gesture since
    expect(page.locator("#banner")).to_contain_text("This page makes no sound yet")
    page.locator("#sound").click()
    expect(page.locator("#sound")).to_have_text("Sound is on")
    screen.close()


@pytest.mark.parametrize(
    ("role", "pages"), [("Olga", ["Record", "Model", "Federation"]), ("Emil", ["Model", "Federation"])]
)
def test_a_role_is_offered_what_it_may_see(screen: Screen, role: str, pages: list[str]) -> None:
    screen.station.put("secret-patient", BAD)
    page = screen.log_in(role)
    expect(page.locator("nav a")).to_have_text(pages)
    page.goto(screen.url + "#/bed/secret-patient")
    expect(page.get_by_role("heading", level=1)).to_have_text(pages[0])  # in place of the bed's page
    expect(page.get_by_role("heading", name="secret-patient")).to_have_count(0)
    if "Record" not in pages:  # which has the signed steps, for those who may read it
        expect(page.locator("main")).not_to_contain_text("NEWS2")
    page.get_by_role("link", name="Federation").click()
    expect(page.locator("main")).to_contain_text("No federation is configured")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Name")).to_be_visible()
    assert screen.context.cookies() == []


@pytest.mark.parametrize(("scheme", "width", "height"), [("light", 360, 740), ("dark", 1280, 900)])
def test_no_serious_barrier_and_nothing_beside_the_screen(
    browser: Browser, station: Station, scheme: str, width: int, height: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed").Axe()
    station.put("bed-1", ALONE)
    station.put("bed-2", BAD)
    station.put("bed-3")
    station.wait(lambda: any(p.proposal.source == "model" for p in station.recorder.bed("bed-1").proposals.values()))
    screen = Screen(browser, station, width=width, height=height, color_scheme=scheme, reduced_motion="reduce")
    page = screen.page
    page.goto(screen.url)
    page.get_by_label("Name").wait_for()
    page.evaluate("document.body.append(document.createElement('button'))")
    assert any("button-name" in problem for problem in _barriers(axe, page, "a nameless button"))
    page.evaluate("document.body.lastElementChild.remove()")
    problems = _barriers(axe, page, "login")
    screen.log_in("Paul")
    page.locator(".bed").nth(2).wait_for()
    assert page.evaluate("getComputedStyle(document.querySelector('.lamp.flash')).animationName") == "none"
    for place, sign in (
        ("ward", ".bed"),
        ("bed/bed-1", "svg.chart"),
        ("audit", "tbody tr"),
        ("model", "dl"),
        ("federation", ".card"),
    ):
        page.goto(f"{screen.url}#/{place}")
        page.locator(sign).first.wait_for()
        problems += _barriers(axe, page, place)
        over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 0, f"{place} is {over} px too wide at {width}"
    page.goto(f"{screen.url}#/bed/bed-1")
    page.get_by_role("button", name="Prescribe").click()
    page.get_by_role("dialog").wait_for()
    problems += _barriers(axe, page, "dialog")
    assert problems == []
    screen.close()


@pytest.mark.parametrize(("width", "height"), [(360, 740), (3840, 2160)])
def test_thirty_beds_fit_from_a_phone_to_a_wall(browser: Browser, station: Station, width: int, height: int) -> None:
    for number in range(30):
        station.put(f"bed-{number + 1:02d}", BAD if number % 7 == 3 else ALONE if number % 5 == 0 else None)
    screen = Screen(browser, station, width=width, height=height)
    page = screen.log_in("Nora")
    expect(page.locator(".bed")).to_have_count(30)
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    if width > 3000:  # the whole ward at one look
        assert page.evaluate("document.documentElement.scrollHeight") <= height
        page.wait_for_timeout(300)
    if shots := os.environ.get("SMALLHOLD_SHOTS"):
        page.screenshot(path=f"{shots}/ward-{width}.png")
    screen.close()


def _barriers(axe: Any, page: Page, place: str) -> list[str]:
    found = axe.run(page).response["violations"]
    return [
        f"{place}: {item['id']}: {item['help']}: {item['nodes'][0]['html'][:120]}"
        for item in found
        if item["impact"] in ("serious", "critical")
    ]


def test_the_page_is_light_and_asks_nobody_else(screen: Screen) -> None:
    asked: list[str] = []
    sizes: list[int] = []

    def weigh(answer: Any) -> None:
        asked.append(answer.url)
        if "/api/" not in answer.url:
            sizes.append(len(answer.body()))

    screen.page.on("response", weigh)
    page = screen.page
    page.goto(screen.url)
    page.get_by_label("Name").wait_for()
    assert all(url.startswith(screen.url) for url in asked)
    assert 10_000 < sum(sizes) < 300_000
    paints = []
    for _ in range(3):  # below 1 s on a quiet machine; this one may be busy
        page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length > 0")
        paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        page.reload()
    assert min(paints) < 3_000


def test_lights_and_sounds_keep_to_the_standards_table() -> None:
    style = (STATIC / "style.css").read_text()
    for priority in (Priority.HIGH, Priority.MEDIUM):
        signal = SIGNALS[priority]
        period = float(re.search(rf"--{priority.value}-flash: ([\d.]+)s", style)[1])  # type: ignore[index]
        assert signal.flash_hz is not None and signal.flash_hz[0] <= 1 / period <= signal.flash_hz[1]
        assert signal.duty[0] <= 0.5 <= signal.duty[1]  # steps(1) over halves: @keyframes flash
    assert "flash.low" not in style  # a LOW is constant
    sound = (STATIC / "sound.js").read_text()
    half = json.loads(re.search(r"const HALF = (\[[\d., ]+\])", sound)[1])  # type: ignore[index]
    assert "high: { onsets: [...HALF, ...HALF.map((at) => at + 1.9)], pulse: 0.15, pause: 5 }" in sound
    assert 2 * len(half) == SIGNALS[Priority.HIGH].pulses[0]
    # Between pulses x, x, 2x + a pulse, x with x from 50 to 125 ms; then .35 to 1.3 s.
    gaps = [round(b - a - 0.15, 3) for a, b in pairwise(half)]
    assert gaps == [0.1, 0.1, 0.35, 0.1] and 0.35 <= 1.9 - half[-1] - 0.15 <= 1.3
    for name, pulses, pause in re.findall(r"(medium|low): \{ onsets: (\[[\d., ]+\]), pulse: 0\.2, pause: (\d+)", sound):
        signal = SIGNALS[Priority(name)]
        assert signal.pulses[0] <= len(json.loads(pulses)) <= signal.pulses[1]
        assert signal.repeat_seconds[0] <= float(pause) <= (signal.repeat_seconds[1] or 1e9)


def test_every_word_is_there_in_every_language() -> None:
    words = {name: json.loads((STATIC / f"words.{name}.json").read_text()) for name in ("en", "fr", "ru")}
    for name, held in words.items():
        assert held.keys() == words["en"].keys(), name
        for key, text in held.items():
            assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", words["en"][key])), (name, key)
    used = {key for path in STATIC.glob("*.js") for key in re.findall(r'\bt\("([\w.]+)"', Path(path).read_text())}
    assert used <= words["en"].keys()
