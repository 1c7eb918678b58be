"""The patient's page in real Chromium: with a network and without, on the device's own model, for one patient."""

from __future__ import annotations

import json
import random
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, sync_playwright
from tests.engine.test_wasm import build_wasm
from tests.sectors.hospital.test_symptoms import CALM, MET

from smallhold.cli.main import main
from smallhold.decide.text_task import LocalTextTask
from smallhold.sectors.hospital.symptoms import red_flags, words_of

from .world import BAD, MODELS, World, start_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
LONGEST_MS = 30_000
RASH = "Red, itchy patches on both elbows for a month, and the skin flakes. Silver scales."
HOSTILE = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
#: Everything that the browser keeps of the page.
KEPT = """async () => {
  const request = (made) => new Promise((done) => (made.onsuccess = () => done(made.result)));
  const database = await request(indexedDB.open("smallhold-patient"));
  const all = (name) => request(database.transaction(name).objectStore(name).getAll());
  return JSON.stringify([await all("kept"), await all("queue"), await caches.keys(), document.body.innerText]);
}"""


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build_wasm()
    out = tmp_path_factory.mktemp("model") / "page"
    keys = str(MODELS / "trusted_keys")
    assert main(["bundle", "page", str(MODELS / "hospital"), "--trusted-keys", keys, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def ward(make_world: Callable[..., World], triage: LocalTextTask, model_folder: Path) -> World:
    return make_world(triage=triage, model_folder=model_folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: make system")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture
def device(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 390, "height": 844}, locale="en-GB")
    context.set_default_timeout(LONGEST_MS)
    yield context
    context.close()


def visit(context: BrowserContext, world: World) -> Page:
    page = context.new_page()
    page.goto(world.url)
    page.locator("html[data-ready]").wait_for(state="attached")
    return page


def paired(context: BrowserContext, world: World, patient: str = "p", *, is_kept: bool = True) -> Page:
    page = visit(context, world)
    page.fill("#code", world.pairings.new_pairing(patient))
    page.keyboard.press("Enter")
    page.locator("#today").wait_for()
    page.locator("#waiting").wait_for(state="hidden")
    if is_kept:
        page.evaluate("navigator.serviceWorker.ready.then(() => null)")
    return page


def show(page: Page, view: str) -> None:
    page.click(f"#nav button[data-view={view}]")


def tell(page: Page, text: str) -> None:
    show(page, "feel")
    page.fill("#symptoms", text)
    page.click("#feel-form button")
    page.locator("#advice .card").wait_for()


def until_online(page: Page) -> None:
    page.locator("#network:not(.offline)").wait_for()
    page.locator("#waiting").wait_for(state="hidden")


def given_dose(world: World, patient: str = "p") -> tuple[str, int]:
    id = f"rx-{secrets.token_hex(4)}"
    world.prescribe(patient, id, drug=f"drug {id}")
    due = next(v for v in world.care.board(patient).plan(world.now_ms()) if v.prescription.id == id).slot.due_ms
    dose = world.live.call(lambda: world.care.board(patient).give(id, "nurse", world.now_ms(), slot_ms=due))
    return id, dose.t_ms


def is_confirmed(world: World, id: str, patient: str = "p") -> bool:
    return any(dose.is_confirmed for dose in world.care.board(patient).given() if dose.prescription == id)


def count(world: World, kind: str, *parts: str) -> int:
    """Entries of a kind in the journal that say all of this."""
    payloads = [payload or b"" for _, payload in world.journal.entries(kind=kind)]
    return sum(all(part.encode() in payload for part in parts) for payload in payloads)


def test_the_browser_and_the_server_see_the_same_words_and_flags(device: BrowserContext, ward: World) -> None:
    page = visit(device, ward)
    rng = random.Random(3)
    stems = [stem for text, _ in MET for stem in text.split()] + [
        "İ",
        "ß",
        "Ёж",
        "œil",
        "①",
        "e\u0301",
        "don’t",
        "\u200d",
    ]
    texts = (
        [text for text, _ in MET] + CALM + [" ".join(rng.choices(stems, k=rng.randrange(1, 14))) for _ in range(400)]
    )
    found = page.evaluate(
        """async (texts) => {
          const { redFlags, wordsOf } = await import("./symptoms.js");
          const rules = await (await fetch("symptoms.json")).json();
          return texts.map((text) => [wordsOf(text), redFlags(text, rules)]);
        }""",
        texts,
    )
    for text, (words, flags) in zip(texts, found, strict=True):
        assert (words, flags) == (words_of(text), list(red_flags(text))), text


def test_a_text_is_read_on_the_device_and_stays_there_until_it_is_handed_over(
    device: BrowserContext, ward: World, triage: LocalTextTask
) -> None:
    page = paired(device, ward)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.post_data or ""))
    before = len(ward.care.intakes("p"))
    tell(page, RASH)
    advice = page.locator("#advice .routine")
    assert "Mention it at the next visit" in advice.inner_text()
    page.click("#advice summary")
    assert "read your text on this device" in advice.inner_text() and "psoriasis" in advice.inner_text()
    assert "not a diagnosis" in advice.inner_text()
    assert not any("elbows" in body for body in sent) and len(ward.care.intakes("p")) == before
    page.click("#advice button")
    page.locator("#advice .status", has_text="Staff were told").wait_for()
    held = ward.care.intakes("p")[-1]
    expected = triage.decide(RASH).answers["condition"]
    assert (held.text, held.urgency, held.triage.where) == (RASH, "routine", "device")
    assert (
        held.triage.choice == expected.choice
        and abs(held.triage.confidence - max(expected.probabilities.values())) < 0.01
    )
    assert held.triage.bundle == triage.bundle.manifest.digest


def test_what_the_model_cannot_judge_and_what_is_not_english_goes_to_staff(device: BrowserContext, ward: World) -> None:
    page = paired(device, ward)
    tell(page, "hello my name is Anna and I like the garden")
    page.locator("#advice .staff .status", has_text="Staff were told").wait_for()
    page.select_option("#language", "ru")
    tell(page, "насморк уже неделю")
    page.locator("#advice .staff .status", has_text="Персонал предупреждён").wait_for()
    last = ward.care.intakes("p")[-2:]
    assert [(item.triage.where, item.triage.has_abstained, item.urgency) for item in last] == [
        ("device", True, "staff"), ("nowhere", True, "staff"),
    ]  # fmt: skip


def test_without_a_model_on_the_device_the_server_reads_and_the_page_says_so(
    device: BrowserContext, make_world: Callable[..., World], triage: LocalTextTask
) -> None:
    world = make_world(triage=triage)
    page = paired(device, world)
    tell(page, RASH)
    page.click("#advice summary")
    assert "read your text on the hospital’s machine" in page.locator("#advice .routine").inner_text()
    assert not world.care.intakes("p")


def test_without_a_network_nothing_is_lost_and_nothing_comes_twice(device: BrowserContext, ward: World) -> None:
    id, given_ms = given_dose(ward)
    page = paired(device, ward)
    page.locator(f"#doses button[aria-label*='{id}']").wait_for()
    show(page, "feel")
    tell(page, RASH)  # the model is loaded and on the device
    device.set_offline(True)
    page.locator("#network.offline").wait_for()
    page.reload()
    page.locator("html[data-ready]").wait_for(state="attached")
    page.locator("#network.offline").wait_for()
    assert "This is from:" in page.inner_text("#network")
    page.click(f"#doses button[aria-label*='{id}']")
    page.locator("#doses", has_text="waits to be sent").wait_for()
    tell(page, RASH)
    page.click("#advice summary")
    assert "read your text on this device" in page.inner_text("#advice")
    mark = secrets.token_hex(4)
    tell(page, f"my chest hurts {mark}")
    page.locator("#advice .emergency .status", has_text="Staff do NOT know yet").wait_for()
    show(page, "choices")
    page.check("#consent input[name=messages][value=given]")
    page.locator("#consent", has_text="Waits to be sent").wait_for()
    assert "Not sent yet: 3" in page.inner_text("#waiting")
    page.close()  # the battery is dead
    page = visit(device, ward)
    page.locator("#waiting", has_text="Not sent yet: 3").wait_for()
    show(page, "feel")
    page.locator("#intakes .unsent", has_text=mark).wait_for()
    assert not is_confirmed(ward, id) and count(ward, "intake", mark) == 0
    second = visit(device, ward)  # two windows send at the same time
    device.set_offline(False)
    until_online(page)
    until_online(second)
    assert is_confirmed(ward, id)
    assert count(ward, "medication", '"confirmed"', str(given_ms)) == 1
    assert count(ward, "intake", mark) == 1
    assert [item.urgency for item in ward.care.intakes("p") if mark in item.text] == ["emergency"]
    assert ward.care.consents.of("p")["messages"].state == "given"  # type: ignore[index]
    alert = ward.until(lambda: next((a for a in ward.alerts if "chest-pain" in a.message), None))
    assert alert.priority == "high"
    second.close()


def test_an_answer_that_is_lost_on_the_way_changes_nothing(device: BrowserContext, ward: World) -> None:
    page = paired(device, ward)
    mark, lost = secrets.token_hex(4), []

    def lose(route: Route) -> None:
        if len(lost) < 2:
            lost.append(route.fetch().status)  # the server does it; the device does not hear of it
            route.abort()
        else:
            route.continue_()

    device.route("**/api/actions", lose)
    tell(page, f"my chest hurts {mark}")
    page.locator("#advice .status", has_text="Staff were told").wait_for()
    assert lost == [200, 200] and count(ward, "intake", mark) == 1


def test_the_page_does_not_say_that_staff_know_where_nobody_was_called(device: BrowserContext, ward: World) -> None:
    page = paired(device, ward, "at-home")  # no monitor, so no bed
    tell(page, "my chest hurts")
    page.locator("#advice .status.unsent", has_text="nobody was called. Ring the bell or call 112").wait_for()
    assert "On record; nobody was called." in page.inner_text("#intakes")
    assert [item.urgency for item in ward.care.intakes("at-home")] == ["emergency"]


def test_a_report_that_does_not_get_through_is_not_shown_as_on_its_way(device: BrowserContext, ward: World) -> None:
    page = paired(device, ward)
    device.route("**/api/actions", lambda route: route.fulfill(status=503, json={"error": "not now; try again"}))
    tell(page, "my chest hurts")
    page.locator("#advice .status.unsent", has_text="Staff do NOT know yet").wait_for()


def test_withdrawn_consent_stops_reminders_at_once(device: BrowserContext, ward: World) -> None:
    page = paired(device, ward, "q")
    show(page, "choices")
    ward.prescribe("q", f"rx-{secrets.token_hex(4)}")
    page.check("#consent input[name=messages][value=given]")
    page.locator("#consent fieldset", has_text="reminders").locator("text=In force: yes").wait_for()
    verdicts = [item["effect"] for item in page.evaluate("fetch('api/decisions').then((r) => r.json())")["limits"]]
    assert verdicts[2] != "forbid"
    page.check("#consent input[name=messages][value=withheld]")
    page.locator("#consent fieldset", has_text="reminders").locator("text=In force: no").wait_for()
    sent = ward.live.call(lambda: ward.care.remind(ward.now_ms()))
    assert not [message for message in sent if message.patient == "q"]
    told = page.evaluate("fetch('api/decisions').then((r) => r.json())")["limits"]
    assert [item["effect"] for item in told if item["action"] == "A2"] == ["forbid"]


def test_a_message_is_confirmed_when_it_was_before_the_eyes(device: BrowserContext, ward: World) -> None:
    text = f"Please ring {secrets.token_hex(4)}"
    message = ward.live.call(lambda: ward.care.messages.send("p", "Dr <b>Adams</b>", text + HOSTILE, ward.now_ms()))
    page = paired(device, ward)
    show(page, "choices")
    card = page.locator(f"[data-message='{message.id}']")
    card.wait_for(state="attached")
    show(page, "today")
    ward.until(lambda: next(m for m in ward.care.messages.of("p") if m.id == message.id).seen_ms)
    assert "Dr <b>Adams</b>" in card.inner_text() and "<script>" in card.inner_text()


def test_hostile_words_are_words(device: BrowserContext, ward: World) -> None:
    ward.prescribe("p", f"rx-{secrets.token_hex(4)}", drug=HOSTILE, route=HOSTILE)
    page = paired(device, ward)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    tell(page, HOSTILE)
    page.locator("#intakes .card", has_text="onerror").first.wait_for()
    report = ward.care.intakes("p")[-1]
    ward.live.call(lambda: ward.care.take_report("p", report.id, HOSTILE))
    page.locator("#intakes .good", has_text="<script>").wait_for()
    show(page, "today")
    assert HOSTILE in page.inner_text("#doses")
    for view in ("decided", "choices", "feel"):
        show(page, view)
    assert not problems and page.title() == "My care" and page.locator("main img").count() == 0


def test_decisions_are_told_in_the_patients_language_and_a_person_can_be_asked(
    device: BrowserContext, ward: World
) -> None:
    for code, (value, unit) in BAD.items():
        ward.put("p", code, value, unit)
    ward.until(lambda: any(a.source == "floor" and a.patient == "p" and a.priority == "high" for a in ward.alerts))
    page = paired(device, ward)
    page.select_option("#language", "fr")
    show(page, "decided")
    page.locator("#decisions .called", has_text="tout de suite (par le score)").first.wait_for()
    assert "(NEWS2)" in page.inner_text("#decisions") and "jamais" in (page.locator("#limits").text_content() or "")
    before = len(ward.care.reports.reviews("p"))
    page.locator("#decisions .card:has(.called) button").first.click()
    ward.until(lambda: len(ward.care.reports.reviews("p")) == before + 1)
    page.locator("#reviews", has_text="Vous avez demandé").wait_for()
    assert page.get_attribute("html", "lang") == "fr"
    ward.until(lambda: ward.pairings.language("p") == "fr")
    page.reload()
    page.locator("h1", has_text="Mes soins").wait_for()


def test_disconnecting_leaves_nothing_and_another_patient_sees_nothing(device: BrowserContext, ward: World) -> None:
    secret = secrets.token_hex(8)
    ward.live.call(lambda: ward.care.messages.send("p", "dr A", f"for p alone {secret}", ward.now_ms()))
    page = paired(device, ward)
    page.locator("#messages", has_text=secret).wait_for()
    device.set_offline(True)
    page.locator("#network.offline").wait_for()
    tell(page, f"my chest hurts {secret}")
    device.set_offline(False)
    until_online(page)
    show(page, "choices")
    page.click("#logout")
    page.click("#ask-yes")
    page.locator("#pair").wait_for()
    kept = page.evaluate(KEPT)
    assert secret not in kept and "smallhold http" not in kept
    assert page.evaluate("fetch('api/overview').then((r) => r.status)") == 401
    page.fill("#code", ward.pairings.new_pairing("q"))
    page.keyboard.press("Enter")
    page.locator("#today").wait_for()
    assert secret not in (page.locator("body").text_content() or "")


def test_a_revoked_device_forgets_and_sends_what_waits_only_for_the_same_patient(
    device: BrowserContext, ward: World
) -> None:
    mark = secrets.token_hex(6)
    page = paired(device, ward)
    device.set_offline(True)
    page.locator("#network.offline").wait_for()
    tell(page, f"my chest hurts {mark}")
    ward.pairings.revoke("p", "nurse")
    device.set_offline(False)
    page.locator("#pair-kept").wait_for()
    assert mark not in page.inner_text("body") and count(ward, "intake", mark) == 0
    page.fill("#code", ward.pairings.new_pairing("p"))
    page.keyboard.press("Enter")
    ward.until(lambda: count(ward, "intake", mark) == 1)
    device.set_offline(True)
    page.locator("#network.offline").wait_for()
    other = secrets.token_hex(6)
    tell(page, f"my chest hurts {other}")
    ward.pairings.revoke("p", "nurse")
    device.set_offline(False)
    page.locator("#pair-kept").wait_for()
    page.fill("#code", ward.pairings.new_pairing("q"))
    page.keyboard.press("Enter")
    page.locator("#today").wait_for()
    until_online(page)
    assert count(ward, "intake", other) == 0


def test_a_new_version_takes_the_place_of_the_old_one_and_patients_are_in_neither(
    browser: Browser, tmp_path: Path, triage: LocalTextTask
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    context = browser.new_context()
    context.set_default_timeout(LONGEST_MS)
    with start_world(tmp_path / "old", triage=triage, emergency_number="111") as old:
        port = int(old.origin.rpartition(":")[2])
        page = paired(context, old)
        show(page, "feel")
        assert "call 111" in page.inner_text("#urgent-help")
        (first,) = page.evaluate("caches.keys()")
        urls = page.evaluate(
            "async () => (await (await caches.open((await caches.keys())[0])).keys()).map((r) => r.url)"
        )
        assert len(urls) > 10 and not any("/api/" in url for url in urls)
        page.close()
    with start_world(tmp_path / "new", port=port, triage=triage, emergency_number="999") as new:
        page = visit(context, new)  # the old page, which looks for a new one and finds it
        page.evaluate("navigator.serviceWorker.ready.then((r) => r.update())")
        new.until(lambda: page.evaluate("navigator.serviceWorker.getRegistration().then((r) => r.waiting !== null)"))
        assert "call 111" in (page.locator("#urgent-help").text_content() or "")  # not under the patient's hands
        page.close()
        page = visit(context, new)
        new.until(lambda: first not in page.evaluate("caches.keys()"))
        page.reload()
        page.locator("html[data-ready]").wait_for(state="attached")
        assert "call 999" in (page.locator("#urgent-help").text_content() or "")
        assert len(page.evaluate("caches.keys()")) == 1
    context.close()


def test_a_backlog_larger_than_a_request_is_sent_all_the_same(device: BrowserContext, ward: World) -> None:
    page = paired(device, ward, "q")
    device.set_offline(True)
    page.locator("#network.offline").wait_for()
    mark = secrets.token_hex(5)
    for number in range(9):
        tell(page, f"не могу дышать {mark} {number} " + "ы" * 3900)
    device.set_offline(False)
    until_online(page)
    assert count(ward, "intake", mark) == 9


@pytest.mark.parametrize(("scheme", "language"), [("light", "en"), ("dark", "fr"), ("light", "ru")])
def test_no_serious_violation_of_accessibility_and_no_overflow_at_320_pixels(
    browser: Browser, ward: World, scheme: str, language: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python", reason="axe-core comes with axe-playwright-python")
    source = (Path(axe.__file__).parent / "axe.min.js").read_text()
    context = browser.new_context(viewport={"width": 320, "height": 640}, color_scheme=scheme, locale=language)  # type: ignore[arg-type]
    context.set_default_timeout(LONGEST_MS)
    given_dose(ward)
    page = visit(context, ward)

    def check(where: str) -> None:
        page.evaluate(source)
        result = page.evaluate("axe.run({ resultTypes: ['violations'] })")
        serious = [
            (item["id"], [node["html"][:200] for node in item["nodes"]])
            for item in result["violations"] if item["impact"] in ("serious", "critical")
        ]  # fmt: skip
        assert not serious, (where, json.dumps(serious, indent=1))
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, where

    check("pair")
    page.fill("#code", ward.pairings.new_pairing("p"))
    page.keyboard.press("Enter")
    page.locator("#doses .card").first.wait_for()
    for view in ("today", "decided", "choices"):
        show(page, view)
        if view == "decided":
            page.locator("#decisions .card").first.wait_for()
        check(view)
    for text in ("my chest hurts", "hello my name is Anna", RASH):
        tell(page, text)
        check(text)
    context.close()


def test_the_page_can_be_used_by_keyboard_alone(device: BrowserContext, ward: World) -> None:
    page = paired(device, ward)

    def tab_to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    tab_to("#nav button[data-view=feel]")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "feel-title"
    tab_to("#symptoms")
    page.keyboard.type("my chest hurts")
    tab_to("#feel-form button")
    page.keyboard.press("Enter")
    page.locator("#advice .emergency").wait_for()
    assert page.evaluate("document.activeElement.tagName") == "H3"
