"""The patient's API: what it does, and what it does not do for those who should not ask."""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path

import httpx
import pytest

from smallhold.console.patient.pairing import ALPHABET, PairingRefused, Pairings
from smallhold.console.patient.rate import RateLimit, RateLimited
from smallhold.errors import InputError, JournalError, MissingExtraError

from .world import BAD, Device, World

TRIAGE = {"where": "nowhere", "choice": None, "confidence": 0, "has_abstained": True, "bundle": ""}


def new_id() -> str:
    return secrets.token_hex(16)


def intake(text: str, **changes: object) -> dict[str, object]:
    return {
        "kind": "intake", "id": new_id(), "t_ms": 1, "language": "en", "text": text, "triage": TRIAGE,
        "urgency": "routine", **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def p(world: World) -> Device:
    return Device(world, "p")


def test_an_unpaired_device_reads_and_does_nothing(world: World) -> None:
    device = Device(world)
    for path in ("api/session", "api/overview", "api/decisions", "api/export"):
        assert device.get(path).status_code == 401
    for path, body in (("api/actions", {"actions": [intake("x")]}), ("api/log-out", {}), ("api/triage", {})):
        assert device.post(path, body).status_code == 401
    for token in ("0" * 64, "x", "../", "é"):
        told = httpx.get(world.url + "api/overview", headers={"cookie": f"smallhold_patient={token}".encode()})
        assert told.status_code == 401


def test_a_code_works_once_and_the_cookie_is_out_of_reach_of_scripts_and_other_sites(world: World) -> None:
    code = world.pairings.new_pairing("p")
    device = Device(world)
    told = device.client.post("api/pair", json={"code": code.lower().replace("-", " ")})
    assert told.status_code == 200
    cookie = told.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/patient/" in cookie
    assert len(device.client.cookies["smallhold_patient"]) == 64
    replay = Device(world).client.post("api/pair", json={"code": code})
    assert replay.status_code == 403 and "not valid" in replay.json()["error"]


def test_a_new_code_replaces_the_one_before_and_old_codes_die() -> None:
    now = [1_000]
    pairings = Pairings(clock=lambda: now[0])
    first, second = pairings.new_pairing("p"), pairings.new_pairing("p")
    with pytest.raises(PairingRefused):
        pairings.redeem(first, "a")
    now[0] += 10 * 60_000
    with pytest.raises(PairingRefused):
        pairings.redeem(second, "a")
    with pytest.raises(InputError, match="1 to 60 minutes, got 0"):
        pairings.new_pairing("p", minutes=0)


def test_codes_cannot_be_tried_out(world: World) -> None:
    pairings = Pairings()
    code = pairings.new_pairing("p")
    for address in range(10):
        for _ in range(5):
            with pytest.raises(PairingRefused):
                pairings.redeem("".join(secrets.choice(ALPHABET) for _ in range(9)), str(address))
        with pytest.raises(RateLimited, match="too many attempts"):
            pairings.redeem("AAAAAAAAA", str(address))
    with pytest.raises(RateLimited):  # from anywhere: fifty wrong ones in ten minutes are enough
        pairings.redeem(code, "another address")


def test_a_brute_force_over_http_ends_with_429(make_world: object) -> None:
    world = make_world()  # type: ignore[operator]
    device = Device(world)
    statuses = [device.client.post("api/pair", json={"code": f"AAAAAAAA{c}"}).status_code for c in ALPHABET[:7]]
    assert statuses == [403] * 5 + [429] * 2
    good = device.client.post("api/pair", json={"code": world.pairings.new_pairing("p")})
    assert good.status_code == 429 and int(good.headers["retry-after"]) > 60


def test_a_window_slides() -> None:
    now = [0.0]
    limit = RateLimit(2, 10, lambda: now[0])
    limit.spend("a", "x")
    now[0] = 6
    limit.spend("a", "x")
    limit.spend("b", "x")
    with pytest.raises(RateLimited, match="wait 4 s"):
        limit.spend("a", "x")
    now[0] = 10
    limit.spend("a", "x")


def test_sessions_outlive_the_process_and_end_when_revoked_or_old(tmp_path: Path) -> None:
    now = [10**12]
    events: list[str] = []
    path = tmp_path / "paired.json"
    pairings = Pairings(path, write=lambda patient, event: events.append(event["event"]), clock=lambda: now[0])
    token, session = pairings.redeem(pairings.new_pairing("p"), "a")
    assert token not in path.read_text() and path.stat().st_mode & 0o077 == 0
    again = Pairings(path, write=lambda patient, event: events.append(event["event"]), clock=lambda: now[0])
    assert again.session(token) is not None
    assert again.sessions("p")[0].id == session.id and not again.sessions("q")
    now[0] += 7 * 24 * 3_600_000
    assert again.session(token) is None
    token, _ = again.redeem(again.new_pairing("p"), "a")
    assert again.revoke("p", "nurse") == 1 and again.session(token) is None
    assert events == ["offered", "paired", "offered", "paired", "revoked"]
    path.write_text("{}")
    with pytest.raises(InputError, match="the paired devices cannot be read"):
        Pairings(path)


def test_what_cannot_be_journalled_pairs_nobody_and_revokes_all_the_same() -> None:
    is_full = [False]

    def write(patient: str, event: object) -> None:
        if is_full[0]:
            raise JournalError("disk full")

    pairings = Pairings(write=write)
    token, _ = pairings.redeem(pairings.new_pairing("p"), "a")
    code = pairings.new_pairing("q")
    is_full[0] = True
    with pytest.raises(JournalError):
        pairings.redeem(code, "a")
    with pytest.raises(JournalError):
        pairings.new_pairing("q")
    assert not pairings.sessions("q")
    with pytest.raises(JournalError):
        pairings.revoke("p", "nurse")
    assert pairings.session(token) is None


def test_changes_need_the_pages_own_origin_and_token(world: World, p: Device) -> None:
    body = {"actions": [intake("I slept badly")]}
    before = len(world.care.intakes("p"))
    for headers, status in (
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"x-smallhold-csrf": ""}, 403),
        ({"x-smallhold-csrf": "0" * 64}, 403),
        ({"x-smallhold-csrf": Device(world, "q").csrf}, 403),
        ({"host": "evil.example", "origin": "http://evil.example"}, 421),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
    ):
        told = p.post("api/actions", body, **headers)
        assert told.status_code == status, headers
    without = httpx.post(world.url + "api/actions", json=body, cookies=dict(p.client.cookies))
    assert without.status_code == 403
    assert p.get("api/overview", headers={"host": "evil.example"}).status_code == 421
    assert len(world.care.intakes("p")) == before


def test_one_patient_never_reaches_another(world: World, p: Device) -> None:
    q = Device(world, "q")
    world.prescribe("q", "rx-q")
    given = world.live.call(lambda: world.care.board("q").give("rx-q", "nurse", world.now_ms(),
        slot_ms=world.care.board("q").plan(world.now_ms())[0].slot.due_ms))  # fmt: skip
    secret = world.live.call(lambda: world.care.messages.send("q", "dr A", "SECRET-OF-Q", world.now_ms()))
    report = intake("SECRET-TEXT-OF-Q")
    assert q.act(**report)["status"] == "done"
    for path in ("api/overview", "api/decisions", "api/export"):
        assert "SECRET" not in p.get(path).text
        assert "SECRET" not in p.get(path, params={"patient": "q"}).text
        assert "SECRET" not in p.get(path, headers={"x-patient": "q"}).text
    assert p.act(kind="seen", id=new_id(), message=secret.id)["status"] == "refused"
    assert p.act(kind="taken", id=new_id(), prescription="rx-q", given_ms=given.t_ms)["status"] == "refused"
    stolen = p.act(**{**report, "text": "mine now"})
    assert stolen["status"] == "refused" and "SECRET" not in json.dumps(stolen)
    assert p.post("api/actions", {"actions": [{**report, "patient": "q"}]}).status_code == 422
    held = world.care.messages.of("q")[-1]
    assert held.seen_ms is None and not world.care.board("q").given()[0].is_confirmed
    assert [item.text for item in world.care.intakes("q")] == ["SECRET-TEXT-OF-Q"]
    exported = q.get("api/export").json()
    assert exported["patient"] == "q" and "SECRET-OF-Q" in json.dumps(exported)
    assert {"pairing", "message", "intake", "medication", "reading"} <= {item["kind"] for item in exported["entries"]}
    assert all(item["entry"]["patient"] == "q" for item in exported["entries"])


def test_a_revoked_device_is_out_at_once_and_log_out_ends_the_session(world: World) -> None:
    lost, other = Device(world, "p"), Device(world, "q")
    world.pairings.revoke("p", "nurse")
    assert lost.get("api/overview").status_code == 401
    assert other.get("api/overview").status_code == 200
    token = other.client.cookies["smallhold_patient"]
    assert other.post("api/log-out", {}).status_code == 200
    assert httpx.get(world.url + "api/overview", cookies={"smallhold_patient": token}).status_code == 401


def test_a_red_flag_calls_staff_whatever_the_device_says_of_it(world: World) -> None:
    p = Device(world, "p")
    sure = {"where": "device", "choice": "Acne", "confidence": 0.99, "has_abstained": False, "bundle": "a" * 64}
    report = intake("j'ai mal à la poitrine", language="fr", triage=sure)
    assert p.act(**report)["status"] == "done"
    assert p.act(**report)["status"] == "done"
    held = [item for item in world.care.intakes("p") if item.id == report["id"]]
    assert len(held) == 1 and held[0].urgency == "emergency" and held[0].red_flags == ("chest-pain",)
    assert held[0].triage.choice == "Acne"
    alert = world.until(lambda: next((a for a in world.alerts if str(report["id"]) in a.condition), None))
    assert alert.priority == "high" and alert.patient == "p"
    world.live.call(lambda: world.care.take_report("p", str(report["id"]), "nurse Ada"))
    told = p.get("api/overview").json()["intakes"][-1]
    assert told["taken_by"] == "nurse Ada"


def test_a_calm_text_keeps_the_urgency_that_the_patient_wants(world: World) -> None:
    p = Device(world, "p")
    sure = {"where": "device", "choice": "Acne", "confidence": 0.99, "has_abstained": False, "bundle": "a" * 64}
    for text, triage, said, expected in (
        ("spots on my face", sure, "routine", "routine"),
        ("spots on my face", sure, "staff", "staff"),
        ("spots on my face", TRIAGE, "routine", "staff"),
        ("spots", {**sure, "confidence": 0.6}, "routine", "staff"),
        ("spots", {**sure, "choice": "Malaria"}, "routine", "soon"),
    ):
        report = intake(text, triage=triage, urgency=said)
        assert p.act(**report)["status"] == "done"
        assert world.care.intakes("p")[-1].urgency == expected


def test_the_server_reads_texts_and_says_so(world: World) -> None:
    p = Device(world, "p")
    told = p.post("api/triage", {"text": "burning when I pee", "language": "en"}).json()
    assert (told["where"], told["choice"]) == ("server", "urinary tract infection")
    unsure = p.post("api/triage", {"text": "hello my name is Anna", "language": "en"}).json()
    assert (unsure["choice"], unsure["has_abstained"]) == (None, True) and unsure["confidence"] < 0.9
    french = p.post("api/triage", {"text": "des plaques rouges", "language": "fr"}).json()
    assert french == TRIAGE
    assert p.post("api/triage", {"text": "  ", "language": "en"}).status_code == 422
    assert "nothing" not in {item.text for item in world.care.intakes("p")}


def test_a_dose_is_confirmed_once_and_a_message_seen_once(world: World) -> None:
    p = Device(world, "p")
    world.prescribe("p", "rx-p")
    due = world.care.board("p").plan(world.now_ms())[0].slot.due_ms
    given = world.live.call(lambda: world.care.board("p").give("rx-p", "nurse", world.now_ms(), slot_ms=due))
    message = world.live.call(lambda: world.care.messages.send("p", "dr A", "<b>hello</b>", world.now_ms()))
    for _ in range(2):
        assert p.act(kind="taken", id=new_id(), prescription="rx-p", given_ms=given.t_ms)["status"] == "done"
        assert p.act(kind="seen", id=new_id(), message=message.id)["status"] == "done"
    told = p.get("api/overview").json()
    (dose,) = [d for d in told["doses"] if d["given_ms"] == given.t_ms]
    assert dose["is_confirmed"] and dose["state"] == "given"
    payloads = [payload or b"" for _, payload in world.journal.entries(kind="medication")]
    assert sum(b'"confirmed"' in payload for payload in payloads) == 1
    assert p.act(kind="taken", id=new_id(), prescription="rx-p", given_ms=5)["status"] == "refused"


def test_consent_is_in_force_at_the_bed_when_the_answer_comes(world: World) -> None:
    p = Device(world, "p")
    assert p.act(kind="consent", id=new_id(), purpose="messages", state="given")["status"] == "done"
    assert p.get("api/overview").json()["consent"]["messages"]["state"] == "given"
    effects = {item["action"]: item["effect"] for item in p.get("api/decisions").json()["limits"]}
    assert effects["A5"] == "forbid" and effects["A1"] == "auto"
    assert p.act(kind="consent", id=new_id(), purpose="messages", state="withheld")["status"] == "done"
    after = {item["action"]: item["effect"] for item in p.get("api/decisions").json()["limits"]}
    assert after["A2"] == "forbid" and after["A1"] == "auto"
    assert p.act(kind="consent", id=new_id(), purpose="marketing", state="given")["status"] == "refused"


def test_decisions_are_told_with_score_calls_and_clauses(world: World) -> None:
    p = Device(world, "p")
    for code, (value, unit) in BAD.items():
        world.put("p", code, value, unit)
    world.until(lambda: any(a.source == "floor" and a.patient == "p" for a in world.alerts))

    def newest_high() -> object:
        decisions = p.get("api/decisions").json()["decisions"]
        return next((d for d in decisions if "high" in {call["priority"] for call in d.get("calls", ())
            if call["source"] == "floor"}), None)  # fmt: skip

    floor = world.until(newest_high)
    assert floor["score"]["total"] >= 7 and floor["is_simulated"]
    assert floor["clauses"] and all(clause["summary"] for clause in floor["clauses"])
    alert = next(a for a in world.alerts if a.source == "floor" and a.patient == "p")
    world.live.call(lambda: world.live.acknowledge("p", alert.condition, "nurse Ada"))
    newest = p.get("api/decisions").json()["decisions"]
    assert any(d["kind"] == "acknowledged" and d["who"] == "nurse Ada" for d in newest)
    review = {"kind": "review", "id": new_id(), "about": floor["id"], "text": "why?"}
    assert p.act(**review)["status"] == "done" and p.act(**review)["status"] == "done"
    assert [item.about for item in world.care.reports.reviews("p")].count(floor["id"]) == 1


def test_hostile_and_malformed_bodies_change_nothing_and_are_not_repeated(world: World, p: Device) -> None:
    device = Device(world, "p")
    before = len(world.care.intakes("p"))
    hostile: list[object] = [
        [], "x", {}, {"actions": []}, {"actions": [{}]}, {"actions": [{"kind": "drop"}]},
        {"actions": [intake("x")] * 51}, {"actions": [intake("x", id="../../etc/passwd")]},
        {"actions": [intake("x", t_ms=-1)]}, {"actions": [intake("x", language="tlh")]},
        {"actions": [intake("x", triage={**TRIAGE, "confidence": 2})]}, {"actions": [intake("y" * 9000)]},
        {"actions": [{**intake("x"), "urgency": "<script>alert(1)</script>"}]},
    ]  # fmt: skip
    for body in hostile:
        told = device.post("api/actions", body)
        assert told.status_code == 422, body
        assert "<script>" not in told.text and "passwd" not in told.text
    headers = {"content-type": "application/json", "x-smallhold-csrf": device.csrf}
    for data in (b"{", b"\xff", b"[" * 5000, b'{"actions": NaN}'):
        assert device.client.post("api/actions", content=data, headers=headers).status_code in (400, 422)
    big = device.client.post("api/actions", content=b" " * 70_000, headers=headers)
    assert big.status_code == 413
    assert device.client.post("api/actions", content=iter([b"{}"]), headers=headers).status_code == 411
    assert len(world.care.intakes("p")) == before
    for text in ("<img src=x onerror=alert(1)>", "\u202egnp.exe", "a\x00b", "🙂" * 100, "'; DROP TABLE entries;--"):
        assert device.act(**intake(text))["status"] == "done"
    assert "\x00" not in world.care.intakes("p")[-3].text


def test_a_flood_of_reports_waits_on_the_device(make_world: object) -> None:
    world = make_world()  # type: ignore[operator]
    p = Device(world, "p")
    told = p.post("api/actions", {"actions": [intake(f"text {i}") for i in range(25)]}).json()["results"]
    assert [item["status"] for item in told] == ["done"] * 20 + ["later"] * 5


def test_files_are_handed_out_with_strict_headers_and_no_others(world: World) -> None:
    page = httpx.get(world.url)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy and "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff" and page.headers["referrer-policy"] == "no-referrer"
    for name in ("style.css", "app.js", "sw.js", "i18n-ru.json", "symptoms.json", "app.webmanifest", "icon.svg"):
        assert httpx.get(world.url + name).status_code == 200
    for name in ("..%2f..%2fpairing.py", "__init__.py", "bundle.zip", ".env"):
        assert httpx.get(world.url + name).status_code == 404
    assert Device(world, "p").get("api/overview").headers["cache-control"] == "no-store"


def test_without_the_extra_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    from smallhold.assist.policy import load_profile
    from smallhold.console.patient import patient_router

    for name in [name for name in sys.modules if name.startswith("smallhold.console.patient.") and "guard" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "smallhold.console.patient.router")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(MissingExtraError) as raised:
        patient_router(world.live, world.care, world.journal, world.pairings, profile=load_profile("eu"))
    assert raised.value.hint == "pip install 'smallhold[console]'"
