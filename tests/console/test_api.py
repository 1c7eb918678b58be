"""The API over a real ward: roles, sessions, CSRF, limits, and everything that people do."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.assist.drifting_ward import small_reference, small_signal
from tests.console.station import BAD, ORIGIN, PASSWORD, Station

from smallhold.assist.drift import DriftMonitor
from smallhold.console.accounts import RIGHTS, Accounts, Right, Role, add_account, make_account, read_accounts
from smallhold.console.app import ConsoleOptions
from smallhold.console.sessions import LoginLimit, SessionStore
from smallhold.errors import InputError, JournalError
from smallhold.records import from_json

ALONE = {"HR": (118.0, "/min"), "RespRate": (22.0, "/min")}  # NEWS2 4: the model calls, the floor does not
PARACETAMOL = {
    "drug": "paracetamol",
    "dose": 500,
    "unit": "mg",
    "route": "oral",
    "kind": "scheduled",
    "every_minutes": 360,
}


def said(station: Station, kind: str) -> list[dict[str, Any]]:
    return [json.loads(payload) for _, payload in station.journal.entries(kind=kind) if payload is not None]


def answered(station: Station, name: str, path: str, body: Any) -> tuple[int, Any]:
    answer = station.client(name).post(path, body)
    return answer.status_code, answer.json()


def test_a_ward_is_shown_the_most_urgent_first_and_only_to_who_may_see_it(station: Station) -> None:
    station.put("calm")
    station.put("ill", BAD)
    shown = station.client("Nora").get("/api/ward").json()
    assert [bed["patient"] for bed in shown["beds"]] == ["ill", "calm"]
    alert = shown["beds"][0]["alerts"][0]
    assert (alert["priority"], alert["state"], alert["is_audible"]) == ("high", "active", True)
    assert shown["beds"][0]["vitals"]["BP"]["value"] == 85 and shown["beds"][0]["score"]["total"] == 9
    for name in ("Olga", "Emil"):
        refused = station.client(name).get("/api/ward")
        assert refused.status_code == 403 and "may not do this: view" in refused.json()["error"]
    assert station.client().get("/api/ward").json() == {"error": "log in first", "hint": None}
    assert "ill" not in station.client("Emil").get("/api/status").text


@pytest.mark.parametrize(
    ("method", "path", "right"),
    [
        ("get", "/api/ward", Right.VIEW),
        ("get", "/api/beds/p", Right.VIEW),
        ("get", "/api/beds/p/medication", Right.VIEW),
        ("get", "/api/beds/p/messages", Right.VIEW),
        ("get", "/api/audit", Right.AUDIT),
        ("get", "/api/model", Right.STATUS),
        ("get", "/api/federation", Right.FEDERATION),
        ("post", "/api/beds/p/acknowledge", Right.ACKNOWLEDGE),
        ("post", "/api/beds/p/inactivations", Right.ACKNOWLEDGE),
        ("post", "/api/beds/p/inactivations/end", Right.ACKNOWLEDGE),
        ("post", "/api/beds/p/proposals/x", Right.ACKNOWLEDGE),
        ("post", "/api/beds/p/asks/x", Right.OVERRIDE),
        ("post", "/api/beds/p/prescriptions", Right.PRESCRIBE),
        ("post", "/api/beds/p/drafts/x/sign", Right.PRESCRIBE),
        ("post", "/api/beds/p/prescriptions/x/stop", Right.PRESCRIBE),
        ("post", "/api/beds/p/doses", Right.GIVE),
        ("post", "/api/beds/p/doses/settle", Right.GIVE),
        ("post", "/api/beds/p/messages", Right.MESSAGE),
        ("post", "/api/drift/acknowledge", Right.OVERRIDE),
    ],
)
def test_every_route_asks_for_its_right(module_station: Station, method: str, path: str, right: Right) -> None:
    for name, role in (("Nora", Role.NURSE), ("Paul", Role.PHYSICIAN), ("Olga", Role.OFFICER), ("Emil", Role.ENGINEER)):
        client = module_station.clients[name]
        status = (client.get(path) if method == "get" else client.post(path, {})).status_code
        assert (status != 403) == (right in RIGHTS[role]), (name, status)


def test_what_changes_something_needs_the_token_and_the_own_origin(station: Station) -> None:
    station.put("p", BAD)
    nora, body = station.client("Nora"), {"condition": "deterioration"}
    path = "/api/beds/p/acknowledge"
    for headers in ({"Origin": ORIGIN}, {**nora.headers, "X-CSRF-Token": "x"}, {**nora.headers, "Origin": "http://evil"},
                    {k: v for k, v in nora.headers.items() if k != "Origin"}):  # fmt: skip
        assert nora.post(path, body, headers).status_code == 403
    # As a form of another page could send it.
    form = nora.http.post(path, data={"condition": "deterioration"}, headers=nora.headers)
    assert form.status_code == 415
    assert nora.http.get("/api/session", headers={"Host": "evil.example"}).status_code == 403
    other = station.client("Paul").headers["X-CSRF-Token"]
    assert nora.post(path, body, {**nora.headers, "X-CSRF-Token": other}).status_code == 403
    assert not said(station, "staff")
    assert nora.post(path, body).status_code == 200
    assert said(station, "staff")[-1]["actor"] == "Nora"


def test_cookies_headers_and_sizes(station: Station) -> None:
    client = station.client()
    answer = client.post("/api/session", {"name": "Nora", "password": PASSWORD})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie
    for path in ("/", "/api/ward", "/api/nothing", "/static/nothing"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
    assert client.post("/api/session", {"name": "Nora", "password": "x" * 100_000}).status_code == 413
    refused = client.post("/api/session", {"name": "Nora", "password": "secret-in-the-wrong-form", "more": 1})
    assert refused.status_code == 422 and "secret" not in refused.text


def test_a_session_ends_by_log_out_by_idleness_and_at_last(tmp_path: Path) -> None:
    now = [1_000.0]
    made = Station(tmp_path, options=ConsoleOptions(idle_seconds=100, absolute_seconds=250), monotonic=lambda: now[0])
    try:
        nora = made.client("Nora")
        token = dict(nora.http.cookies)
        assert nora.delete("/api/session").status_code == 200
        nora.http.cookies.update(token)
        assert nora.get("/api/model").status_code == 401
        nora = made.client("Nora")
        for _ in range(2):
            now[0] += 90
            assert nora.get("/api/model").status_code == 200
        now[0] += 90
        assert nora.get("/api/model").status_code == 401  # 250 s are over though it was used
        nora = made.client("Nora")
        for _ in range(3):
            now[0] += 45
            nora.get("/api/ward")  # a page asks by itself: nobody need be there
        assert nora.get("/api/model").status_code == 401
    finally:
        made.close()


def test_guessing_passwords_costs_time_and_locks_nobody_else_out(station: Station) -> None:
    client = station.client()
    station.app.state.console.doors._now = lambda: 1_000.0
    statuses = [client.post("/api/session", {"name": "Nora", "password": f"guess{n}"}).status_code for n in range(7)]
    assert statuses == [401] * 5 + [429] * 2
    late = client.post("/api/session", {"name": "Nora", "password": PASSWORD})
    assert late.status_code == 429 and int(late.headers["retry-after"]) >= 1
    assert client.post("/api/session", {"name": "Paul", "password": PASSWORD}).status_code == 200
    assert client.post("/api/session", {"name": "nobody", "password": PASSWORD}).json() == {
        "error": "name or password is wrong", "hint": None
    }  # fmt: skip
    tried = [item for item in said(station, "console") if item["action"] == "log-in refused"]
    assert len(tried) == 6 and "guess" not in json.dumps(tried)


def test_the_back_off_doubles_and_ends() -> None:
    limit = LoginLimit()
    for second in range(5):
        assert limit.begin("a", f"h{second}", float(second)) == 0
    assert limit.begin("a", "h9", 4.5) == pytest.approx(0.5)
    waits, now = [], 5.0
    for _ in range(8):
        assert limit.begin("a", "h9", now) == 0
        waits.append(limit.wait_seconds("a", "elsewhere", now))
        now += waits[-1]
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]
    for number in range(30):
        limit.begin(f"other{number}", "h5", 1_000.0)
    assert limit.wait_seconds("fresh", "h5", 1_000.0) == 1.0
    limit.succeed("a", "h9")
    assert limit.wait_seconds("a", "elsewhere", now) == 0


def test_a_session_may_not_ask_without_end() -> None:
    store = SessionStore(100, 1_000, rate=10, burst=20)
    token, session = store.begin(make_account("n", Role.NURSE, PASSWORD), 0.0)
    assert [store.take(session, 0.0) for _ in range(21)] == [True] * 20 + [False]
    assert store.take(session, 0.1)
    assert store.find(token, 0.1) is session and store.find(token[:-1], 0.1) is None
    for number in range(300):
        store.begin(make_account_like(session), float(number) / 100)
    assert len(store) == 256
    assert store.find(token, 3.0) is None  # the one that was unused longest went


def make_account_like(session: Any) -> Any:
    return session.account


def test_an_alert_is_acknowledged_paused_and_sounded_again(station: Station) -> None:
    station.put("p", BAD)
    nora = station.client("Nora")
    assert nora.post("/api/beds/p/acknowledge", {"condition": "nothing"}).status_code == 409
    assert nora.post("/api/beds/nobody/acknowledge", {"condition": "x"}).status_code == 404
    pause = {"state": "audio paused", "seconds": 60, "reason": "at the bed"}
    assert nora.post("/api/beds/p/inactivations", pause).status_code == 200
    bed = nora.get("/api/beds/p").json()["bed"]
    assert not bed["alerts"][0]["is_audible"] and bed["alerts"][0]["is_visible"]
    assert (bed["off"][0]["state"], bed["off"][0]["actor"]) == ("audio paused", "Nora")
    too_long = nora.post("/api/beds/p/inactivations", {**pause, "seconds": 600})
    assert too_long.status_code == 409 and "expected 1 to 120000 ms" in too_long.json()["error"]
    assert nora.post("/api/beds/p/inactivations", {"state": "alarm off"}).status_code == 409
    assert nora.post("/api/beds/p/inactivations/end", {"state": "audio paused"}).status_code == 200
    assert nora.post("/api/beds/p/acknowledge", {"condition": "deterioration"}).status_code == 200
    assert nora.get("/api/ward").json()["beds"][0]["alerts"][0]["state"] == "acknowledged"
    assert [item["action"] for item in said(station, "staff")] == ["inactivate", "reactivate", "acknowledge"]


def proposal_of_model(station: Station, client: Any) -> dict[str, Any]:
    station.put("p", ALONE)
    station.wait(lambda: any(p.proposal.source == "model" for p in station.recorder.bed("p").proposals.values()))
    shown = client.get("/api/beds/p").json()
    return next(item for item in shown["proposals"] if item["source"] == "model")


def test_a_proposal_shows_its_evidence_and_clauses_and_is_overridden_with_a_reason(station: Station) -> None:
    paul, nora = station.client("Paul"), station.client("Nora")
    proposal = proposal_of_model(station, paul)
    assert [item["code"] for item in proposal["evidence"]] == ["HR", "RespRate"]
    assert proposal["card"] == "what was seen" and proposal["clauses"]
    shown = paul.get("/api/beds/p").json()
    assert set(proposal["clauses"]) <= {clause["id"] for clause in shown["clauses"]}
    assert {series["code"] for series in shown["series"]} == {"HR", "RespRate"}
    path = f"/api/beds/p/proposals/{proposal['id']}"
    assert nora.post(path, {"response": "override", "reason": "no"}).status_code == 403
    assert paul.post(path, {"response": "override"}).json()["error"] == "override: expected a reason"
    assert paul.post(path, {"response": "override", "reason": "fever, treated"}).status_code == 200
    assert paul.post(path, {"response": "accept"}).status_code == 409
    feedback = from_json(said(station, "feedback")[-1])
    assert (feedback.subject, feedback.response, feedback.actor) == (proposal["id"], "override", "Paul")
    assert feedback.reason == "fever, treated" and feedback.response_time_ms >= 0
    assert feedback.provenance.trace_id == proposal["id"].split("-")[0]
    alert = next(a for a in paul.get("/api/beds/p").json()["bed"]["alerts"] if a["condition"] == "deterioration")
    assert alert["state"] == "acknowledged"


def test_to_snooze_pauses_the_sound_and_leaves_the_proposal_open(station: Station) -> None:
    nora = station.client("Nora")
    proposal = proposal_of_model(station, nora)
    assert nora.post(f"/api/beds/p/proposals/{proposal['id']}", {"response": "snooze"}).status_code == 200
    bed = nora.get("/api/beds/p").json()
    assert bed["proposals"][0]["answer"] is None and bed["bed"]["off"][0]["condition"] == "deterioration"


def test_a_dose_is_prescribed_given_once_and_never_without_the_journal(station: Station, monkeypatch: Any) -> None:
    station.put("p")
    paul, nora = station.client("Paul"), station.client("Nora")
    assert nora.post("/api/beds/p/prescriptions", PARACETAMOL).status_code == 403
    made = paul.post("/api/beds/p/prescriptions", PARACETAMOL).json()
    assert made["is_draft"] is False
    plan = nora.get("/api/beds/p/medication").json()["plan"]
    assert plan[0]["state"] == "due" and station.client("Nora").get("/api/ward").json()["beds"][0]["doses"] == 1
    dose = {"prescription": made["id"], "slot_ms": plan[0]["due_ms"]}

    def fail(*args: Any, **more: Any) -> None:
        raise JournalError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(station.journal, "append", fail)
        assert nora.post("/api/beds/p/doses", dose).status_code == 503
        assert not station.care.board("p").given()
        # People come before the record.
        assert nora.post("/api/beds/p/inactivations", {"state": "audio paused", "seconds": 5}).status_code == 200
    assert nora.post("/api/beds/p/doses", dose).status_code == 200
    twice = nora.post("/api/beds/p/doses", dose)
    assert twice.status_code == 409 and "double: this dose is on record as given" in twice.json()["error"]
    later = {"prescription": made["id"], "slot_ms": plan[1]["due_ms"]}
    held = {**later, "state": "held", "reason": "vomits"}
    assert nora.post("/api/beds/p/doses/settle", held).status_code == 200
    assert paul.post(f"/api/beds/p/prescriptions/{made['id']}/stop", {"reason": "better"}).status_code == 200
    shown = nora.get("/api/beds/p/medication").json()
    assert [item["state"] for item in shown["plan"][:2]] == ["given", "held"] and not shown["prescriptions"]
    assert [item["event"] for item in said(station, "medication")] == ["prescribed", "given", "settled", "stopped"]


def test_an_allergy_forbids_and_a_caution_wants_a_second_person_who_logs_in(station: Station) -> None:
    station.put("p")
    paul, nora = station.client("Paul"), station.client("Nora")
    allergy = paul.post("/api/beds/p/prescriptions", {**PARACETAMOL, "drug": "amoxicillin"})
    assert allergy.status_code == 409 and "contraindicated" in allergy.json()["error"]
    made = paul.post("/api/beds/p/prescriptions", {**PARACETAMOL, "drug": "unlisted-drug"}).json()
    assert "unlisted" in made["cautions"][0]
    slot = nora.get("/api/beds/p/medication").json()["plan"][0]["due_ms"]
    dose = {"prescription": made["id"], "slot_ms": slot, "reason": "ordered by the pharmacist"}
    assert "a second person and a reason are needed" in nora.post("/api/beds/p/doses", dose).json()["error"]
    for witness, status in (
        ({"name": "Paul", "password": "wrong"}, 401),
        ({"name": "Nora", "password": PASSWORD}, 403),
        ({"name": "Emil", "password": PASSWORD}, 403),
        ({"name": "Paul", "password": PASSWORD}, 200),
    ):
        assert nora.post("/api/beds/p/doses", {**dose, "witness": witness}).status_code == status
    assert station.care.board("p").given()[0].witness == "Paul"


def test_two_prescribers_are_two_different_people(tmp_path: Path) -> None:
    made = Station(tmp_path, options=ConsoleOptions(needed_prescribers=2))
    try:
        made.put("p")
        paul, petra = made.client("Paul"), made.client("Petra")
        draft = paul.post("/api/beds/p/prescriptions", PARACETAMOL).json()
        assert draft["is_draft"] and not made.care.board("p").prescriptions()
        path = f"/api/beds/p/drafts/{draft['id']}/sign"
        assert "second, different person" in paul.post(path).json()["error"]
        assert petra.get("/api/beds/p/medication").json()["drafts"][0]["by"] == "Paul"
        assert petra.post(path).status_code == 200 and petra.post(path).status_code == 404
        assert made.care.board("p").prescriptions()[0].prescribers == ("Paul", "Petra")
    finally:
        made.close()


def test_messages_reach_the_patient_and_hostile_ones_nobody(station: Station) -> None:
    station.put("p")
    nora = station.client("Nora")
    assert nora.post("/api/beds/p/messages", {"text": "Bonjour,\nça va ?"}).status_code == 200
    for text in ("", " ", "a\x1b[31m", "\u202eevil", "x" * 2_001):
        assert nora.post("/api/beds/p/messages", {"text": text}).status_code in (409, 422)
    shown = nora.get("/api/beds/p/messages").json()["messages"]
    assert [(item["sender"], item["text"], item["seen_ms"]) for item in shown] == [("Nora", "Bonjour,\nça va ?", None)]


def test_the_audit_shows_entries_newest_first_and_verifies_them(station: Station) -> None:
    station.put("p", BAD)
    olga = station.client("Olga")
    first = olga.get("/api/audit", limit=3).json()
    assert [entry["seq"] for entry in first["entries"]] == [first["last"] - n for n in range(3)]
    kinds = olga.get("/api/audit", kind="ward-start", limit=5).json()["entries"]
    assert [entry["seq"] for entry in kinds] == [0]
    everything, before = [], None
    while True:
        page = olga.get("/api/audit", limit=4, **({} if before is None else {"before": before})).json()
        everything += [entry["seq"] for entry in page["entries"]]
        before = page["before"]
        if before is None:
            break
    assert everything == sorted(everything, reverse=True) and everything[-1] == 0
    report = olga.post("/api/audit/verify").json()
    assert report["is_intact"] and report["entries"] > 3 and report["problem"] is None


def test_the_model_its_drift_and_the_federation_say_what_they_are(station: Station) -> None:
    station.put("p")
    paul = station.client("Paul")
    model = paul.get("/api/model").json()
    assert model["card"] == "# Card" and model["drift"] is None and model["is_silent"] is False
    assert paul.post("/api/drift/acknowledge", {"reason": "looked"}).json()["error"].startswith("drift is not watched")
    assert paul.get("/api/federation").json() == {"is_configured": False}


def test_a_model_on_trial_is_named_and_its_answers_are_not_shown(tmp_path: Path) -> None:
    made = Station(tmp_path, is_silent=True)
    try:
        made.put("p")
        made.wait(lambda: made.ward.counts.decisions >= 2)
        nora = made.client("Nora")
        page = nora.get("/api/beds/p").json()
        assert (page["bed"]["risk"], page["bed"]["model"], page["risks"]) == (None, "silent", [])
        assert nora.get("/api/ward").json()["beds"][0]["risk"] is None
    finally:
        made.close()


def test_a_ward_that_does_not_answer_is_said_to_be_so(station: Station) -> None:
    nora = station.client("Nora")
    station._stop.set()
    station._thread.join(10)
    station.app.state.console.options = ConsoleOptions(call_seconds=0.05)
    answer = nora.get("/api/ward")
    assert answer.status_code == 503 and "did not answer within 0.05 s" in answer.json()["error"]


def test_accounts_are_kept_as_digests_in_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "accounts.json"
    add_account(path, make_account("Zoë", Role.NURSE, PASSWORD))
    assert path.stat().st_mode & 0o777 == 0o600 and PASSWORD not in path.read_text()
    assert PASSWORD not in repr(make_account("Zoë", Role.NURSE, PASSWORD))
    accounts: Accounts = read_accounts(path)
    found = accounts.check("Zoë", PASSWORD)
    assert found is not None and found.role is Role.NURSE
    assert accounts.check("Zoë", PASSWORD + "x") is None and accounts.check("nobody", PASSWORD) is None
    with pytest.raises(InputError, match="is there already"):
        add_account(path, make_account("Zoë", Role.ENGINEER, PASSWORD))
    with pytest.raises(InputError, match="expected 10 to 256 characters, got 5"):
        make_account("n", Role.NURSE, "short")
    for name in ("", " n", "a\nb", "x" * 65):
        with pytest.raises(InputError, match="expected a name of 1 to 64 printable characters"):
            make_account(name, Role.NURSE, PASSWORD)
    path.chmod(0o644)
    with pytest.raises(InputError, match="others may read this file"):
        read_accounts(path)
    path.chmod(0o600)
    path.write_text("{}")
    with pytest.raises(InputError, match="cannot be read"):
        read_accounts(path)


def test_looking_at_a_patient_is_on_record_once_in_a_while(station: Station) -> None:
    station.put("p")
    nora = station.client("Nora")
    for _ in range(3):
        nora.get("/api/beds/p")
    views = [item for item in said(station, "console") if item["action"] == "view"]
    assert [(item["actor"], item["patient"]) for item in views] == [("Nora", "p")]


def test_hours_of_readings_stay_small(station: Station) -> None:
    def fill() -> None:
        now = station.ward.clock.now_ms()
        for second in range(4 * 3_600):
            station.recorder.add_reading("p", "HR", 80 + second % 7, "/min", now - (4 * 3_600 - second) * 1_000)

    station.put("q")
    station.ward.call(fill)
    points = station.recorder.bed("p").series["HR"].points(0)
    assert len(points) < 800
    times = [point[0] for point in points]
    assert times == sorted(times) and times[-1] - times[0] > 3.9 * 3_600_000
    assert min(point[1] for point in points) == 80 and max(point[2] for point in points) == 86


def test_drift_is_shown_and_acknowledged_with_a_name(tmp_path: Path) -> None:
    reference = small_reference("HR", means=(0.5, 0.1, 0.9, 0.0), windows=8)
    monitor = DriftMonitor(reference, small_signal("HR"), run_length=10.0)
    made = Station(tmp_path, drift=monitor)
    try:
        made.put("p")
        paul, nora = made.client("Paul"), made.client("Nora")
        assert paul.post("/api/drift/acknowledge", {"reason": "x"}).status_code == 409  # there is nothing yet

        def shift() -> None:
            for _ in range(200):
                monitor.add_window(0, np.array([1.0, 1.0, 0.0, 1.0]))

        made.ward.call(shift)
        shown = nora.get("/api/model").json()
        assert shown["is_drifted"] and shown["drift"]["inputs"]["state"] == "drifted"
        assert shown["drift"]["inputs"]["evidence"] == 1.0 and shown["drift"]["answers"]["state"] == "ok"
        assert nora.post("/api/drift/acknowledge", {"reason": "x"}).status_code == 403
        assert paul.post("/api/drift/acknowledge", {"reason": "new monitors"}).status_code == 200
        assert not paul.get("/api/model").json()["is_drifted"]
        acts = [item for item in said(made, "console") if item["action"] == "acknowledge-drift"]
        assert [(item["actor"], item["reason"]) for item in acts] == [("Paul", "new monitors")]
    finally:
        made.close()


def test_many_guesses_at_once_hold_no_thread_of_the_server(monkeypatch: Any) -> None:
    accounts = Accounts([make_account("Nora", Role.NURSE, PASSWORD)])
    begun, go = threading.Event(), threading.Event()

    def slow(*_: Any) -> bytes:
        begun.set()
        go.wait(10)
        return bytes(32)

    monkeypatch.setattr("smallhold.console.accounts._digest", slow)
    guesses = [threading.Thread(target=accounts.check, args=("Nora", "x"), daemon=True) for _ in range(8)]
    for guess in guesses:
        guess.start()
    assert begun.wait(10)
    deadline = time.monotonic() + 10
    while True:  # the last of the eight may not have come to its turn yet
        try:
            accounts.check("Nora", "x", wait_seconds=0.01)
        except TimeoutError:
            break
        assert time.monotonic() < deadline
    go.set()
    for guess in guesses:
        guess.join(10)


def test_staff_stop_every_release_and_physicians_let_it_go_on(tmp_path: Path) -> None:
    from smallhold.assist.orders.stop import is_stopped

    home = tmp_path / "home"
    home.mkdir()
    station = Station(tmp_path, home=home)
    try:
        nora, paul, olga = station.client("Nora"), station.client("Paul"), station.client("Olga")
        assert nora.get("/api/status").json()["is_stopped"] is False
        assert olga.post("/api/stop", None).status_code == 403
        assert nora.post("/api/stop", None).status_code == 200
        assert is_stopped(home) and paul.get("/api/status").json()["is_stopped"] is True
        assert nora.post("/api/resume", None).status_code == 403
        assert paul.post("/api/resume", None).status_code == 200
        assert not is_stopped(home)
        acts = [(event["action"], event["actor"]) for event in said(station, "console")]
        assert ("stop", "Nora") in acts and ("resume", "Paul") in acts
    finally:
        station.close()


def test_a_console_without_a_home_says_that_it_stops_nothing(station: Station) -> None:
    assert station.client("Nora").get("/api/status").json()["is_stopped"] is None
    answer = station.client("Nora").post("/api/stop", None)
    assert answer.status_code == 409 and "does not know the home" in answer.json()["error"]
