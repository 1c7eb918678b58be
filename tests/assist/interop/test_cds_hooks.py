"""A CDS Hooks service over real HTTP: cards, feedback into a journal, tokens, and everything that is refused."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount

from smallhold.assist.interop.cds_auth import Client, TokenError, TokenGate, read_clients
from smallhold.assist.interop.cds_cards import escape_markdown, summary
from smallhold.assist.interop.cds_hooks import CdsService
from smallhold.assist.interop.cds_http import CdsOptions, cds_app, cds_routes, listen
from smallhold.assist.interop.cds_view import JournalView, LiveView
from smallhold.assist.interop.fhir_base import Dialect, Release
from smallhold.assist.interop.hospital import score_vitals
from smallhold.assist.medication.board import table_check
from smallhold.assist.orders.interactions import load_interactions
from smallhold.device.home import Home, init
from smallhold.device.journal import Journal
from smallhold.errors import InputError, RecipeError
from smallhold.sectors.hospital.terms import HospitalTerms

from ..test_live import BAD, Clocks, Ward
from .fhir_judge import check

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
DIALECT = Dialect(Release.R4, HospitalTerms())
VIEW, SELECT, SIGN = (f"smallhold-{hook}" for hook in ("patient-view", "order-select", "order-sign"))
EC_KEY = ec.generate_private_key(ec.SECP384R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)


class Server:
    """An application on a free port of loopback."""

    def __init__(self, app: Any) -> None:
        self.socket = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        self.socket.close()


@pytest.fixture(scope="module")
def ward_journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patient p has a HIGH alert, patient q none."""
    folder = tmp_path_factory.mktemp("ward")
    ward = Ward(folder, Clocks())
    for code, (value, unit) in BAD.items():
        ward.put(code, value, unit)
    ward.put("HR", 80.0, patient="q")
    ward.turn(3)
    ward.clocks.pass_seconds(3600)
    ward.until_decided(2)
    ward.die()
    return folder / "journal.db"


@pytest.fixture
def served(ward_journal: Path, tmp_path: Path) -> Iterator[tuple[httpx.Client, Journal]]:
    with Journal.open(tmp_path / "feedback.db", key=KEY) as journal:
        service = make_service(ward_journal, journal)
        server = Server(cds_app(service, CdsOptions(max_body_bytes=200_000)))
        with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as http:
            yield http, journal
        server.stop()


def make_service(ward_journal: Path, journal: Journal) -> CdsService:
    conflicts = table_check(load_interactions(), ())
    return CdsService(
        JournalView(ward_journal, KEY),
        journal,
        DIALECT,
        check_drug=lambda _: conflicts,
        score_vitals=score_vitals,
    )


def hook(name: str, patient: str = "p", **context: Any) -> dict[str, Any]:
    body = {"hook": name, "hookInstance": str(uuid.uuid4())}
    return body | {"context": {"userId": "Practitioner/1", "patientId": patient, **context}}


def orders(*drugs: str) -> dict[str, Any]:
    entries = [
        {"resource": {"resourceType": "MedicationRequest", "id": f"m{n}", "medicationCodeableConcept": {"text": drug}}}
        for n, drug in enumerate(drugs)
    ]
    return {"resourceType": "Bundle", "entry": entries}


def test_a_card_is_found_shown_answered_and_journalled(served: tuple[httpx.Client, Journal]) -> None:
    http, journal = served
    services = http.get("/cds-services").json()["services"]
    assert [(one["id"], one["hook"]) for one in services] == [
        (VIEW, "patient-view"), (SELECT, "order-select"), (SIGN, "order-sign"),
    ]  # fmt: skip
    request = hook("patient-view")
    answer = http.post(f"/cds-services/{VIEW}", json=request)
    assert answer.status_code == 200
    card = answer.json()["cards"][0]
    assert card["indicator"] == "critical" and "NEWS2" in card["summary"] and len(card["summary"]) < 140
    assert "NEWS2 **9**" in card["detail"] and "logistic" not in card["summary"]
    assert card["overrideReasons"][0]["system"] == "urn:smallhold:override-reason"
    assert http.post(f"/cds-services/{VIEW}", json=request).json() == answer.json()

    told = {
        "card": card["uuid"], "outcome": "overridden", "outcomeTimestamp": "2030-01-01T00:00:00Z",
        "overrideReason": {"reason": card["overrideReasons"][0], "userComment": "fluids are running"},
    }  # fmt: skip
    done = http.post(f"/cds-services/{VIEW}/feedback", json={"feedback": [told]})
    assert (done.status_code, done.content) == (200, b"")
    kinds = [entry.kind for entry, _ in journal.entries()]
    assert kinds == ["cds-card", "feedback"]  # the second showing was the same one
    ((_, payload),) = journal.entries(kind="feedback")
    record = json.loads(payload or b"")
    assert (record["response"], record["reason"], record["actor"]) == (
        "override", "already-known: fluids are running", "Practitioner/1",
    )  # fmt: skip
    assert record["response_time_ms"] > 0 and record["schema"] == "smallhold.feedback/1"


def test_a_calm_patient_has_no_card_and_a_stranger_is_scored_from_the_prefetch(
    served: tuple[httpx.Client, Journal],
) -> None:
    http, _ = served
    assert http.post(f"/cds-services/{VIEW}", json=hook("patient-view", "q")).json() == {"cards": []}
    stranger = hook("patient-view", "someone")
    assert http.post(f"/cds-services/{VIEW}", json=stranger).status_code == 412
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60))

    def vitals(of: str) -> dict[str, Any]:
        entries = [
            {
                "resource": {
                    "resourceType": "Observation", "status": "final", "subject": {"reference": f"Patient/{of}"},
                    "code": {"coding": [{"system": "http://loinc.org", "code": code}]}, "effectiveDateTime": now,
                    "valueQuantity": {"value": value, "system": "http://unitsofmeasure.org", "code": unit},
                }
            }
            for code, value, unit in (("9279-1", 30, "/min"), ("8480-6", 85, "mm[Hg]"), ("8867-4", 135, "/min"))
        ]  # fmt: skip
        return {"resourceType": "Bundle", "type": "searchset", "entry": entries}

    stranger["prefetch"] = {"patient": {"resourceType": "Patient", "id": "someone"}, "vitals": vitals("someone")}
    (card,) = http.post(f"/cds-services/{VIEW}", json=stranger).json()["cards"]
    assert card["indicator"] == "critical" and card["summary"] == "NEWS2 is 9 (high), at least"
    stranger["prefetch"]["vitals"] = vitals("another")
    refused = http.post(f"/cds-services/{VIEW}", json=stranger)
    assert (refused.status_code, "another patient" in refused.json()["error"]) == (400, True)
    stranger["prefetch"] = {"patient": {"resourceType": "Patient", "id": "p"}}
    assert http.post(f"/cds-services/{VIEW}", json=stranger).status_code == 400


def test_conflicts_of_orders(served: tuple[httpx.Client, Journal]) -> None:
    http, _ = served
    first, second = sorted(sorted(load_interactions().pairs, key=sorted)[0])
    chosen = hook("order-select", "q", draftOrders=orders(first, second), selections=["MedicationRequest/m0"])
    assert http.post(f"/cds-services/{SELECT}", json=chosen).json()["cards"] == []  # one drug alone
    both = hook("order-sign", "q", draftOrders=orders(first, second))
    cards = http.post(f"/cds-services/{SIGN}", json=both).json()["cards"]
    assert {card["indicator"] for card in cards} == {"warning"}
    assert any(first in card["summary"] and "interaction" in card["summary"] for card in cards)
    urgent = hook("order-sign", draftOrders=orders())
    (card,) = http.post(f"/cds-services/{SIGN}", json=urgent).json()["cards"]
    assert card["indicator"] == "critical"


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("nobody", {}, 404, "no such service"),
        (VIEW, [], 400, "body: expected an object"),
        (VIEW, {"hook": "order-sign"}, 400, "hook: expected patient-view"),
        (VIEW, hook("patient-view") | {"hookInstance": "7"}, 400, "hookInstance: expected a UUID"),
        (VIEW, hook("patient-view", "a b"), 400, "context.patientId"),
        (VIEW, hook("patient-view") | {"context": {"patientId": "p"}}, 400, "context.userId"),
        (SIGN, hook("order-sign"), 400, "context.draftOrders"),
        (SELECT, hook("order-select", draftOrders=orders("a")), 400, "context.selections"),
        (f"{VIEW}/feedback", {"feedback": []}, 400, "feedback: expected a list"),
        (f"{VIEW}/feedback", {"feedback": [{"card": str(uuid.uuid4())}]}, 404, "no such card"),
    ],
)
def test_bad_requests_say_what_was_expected(
    served: tuple[httpx.Client, Journal], path: str, body: Any, status: int, says: str
) -> None:
    http, journal = served
    answer = http.post(f"/cds-services/{path}", json=body)
    assert answer.status_code == status
    assert says in answer.json()["error"]
    assert not list(journal.entries(kind="feedback"))


def test_bytes_origins_and_names_that_are_refused(served: tuple[httpx.Client, Journal]) -> None:
    http, _ = served
    url = f"/cds-services/{VIEW}"
    as_json = {"Content-Type": "application/json"}
    assert http.post(url, content=b"{", headers=as_json).status_code == 400
    assert http.post(url, content=b'{"a":1,"a":2}', headers=as_json).status_code == 400
    assert http.post(url, content=b"x" * 300_000, headers=as_json).status_code == 413
    assert http.post(url, content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415
    page = http.post(url, json=hook("patient-view"), headers={"Origin": "https://evil.example"})
    assert page.status_code == 403 and "access-control-allow-origin" not in page.headers
    assert http.get("/cds-services", headers={"Host": "evil.example"}).status_code == 403
    assert http.get(url).status_code == 405


def test_a_named_origin_may_ask_and_a_slow_sender_is_answered(ward_journal: Path, tmp_path: Path) -> None:
    with Journal.open(tmp_path / "f.db", key=KEY) as journal:
        options = CdsOptions(origins=("https://ehr.example",), timeout_seconds=0.5)
        server = Server(cds_app(make_service(ward_journal, journal), options))
        with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as http:
            wanted = {"Origin": "https://ehr.example", "Access-Control-Request-Method": "POST"}
            allowed = http.options(PATH, headers=wanted).headers
            assert allowed["access-control-allow-origin"] == "https://ehr.example"
        with socket.create_connection(server.socket.getsockname()[:2], 30) as slow:
            head = (
                "POST " + PATH + " HTTP/1.1",
                "Host: localhost",
                "Content-Type: application/json",
                "Content-Length: 9",
            )
            slow.sendall("\r\n".join((*head, "", "")).encode())
            assert slow.recv(100).startswith(b"HTTP/1.1 503")
        server.stop()


def test_feedback_is_taken_as_a_whole_or_not_at_all(served: tuple[httpx.Client, Journal]) -> None:
    http, journal = served
    card = http.post(f"/cds-services/{VIEW}", json=hook("patient-view")).json()["cards"][0]
    good = {"card": card["uuid"], "outcome": "accepted", "outcomeTimestamp": "2030-01-01T00:00:00Z"}
    for bad in (
        good | {"outcome": "ignored"},
        good | {"outcomeTimestamp": "yesterday"},
        good | {"acceptedSuggestions": [{"id": "1"}]},
    ):
        answer = http.post(f"/cds-services/{VIEW}/feedback", json={"feedback": [good, bad]})
        assert answer.status_code == 400 and "feedback[1]" in answer.json()["error"]
    assert not list(journal.entries(kind="feedback"))
    assert http.post(f"/cds-services/{VIEW}/feedback", json={"feedback": [good]}).status_code == 200


def test_cards_are_known_after_a_restart_and_lost_feedback_is_refused(ward_journal: Path, tmp_path: Path) -> None:
    with Journal.open(tmp_path / "feedback.db", key=KEY) as journal:
        (card, *_) = make_service(ward_journal, journal).call(VIEW, hook("patient-view"))["cards"]
    told = {"card": card["uuid"], "outcome": "accepted", "outcomeTimestamp": "2030-01-01T00:00:00Z"}
    with Journal.open(tmp_path / "feedback.db", key=KEY) as journal:
        again = make_service(ward_journal, journal)
        assert again.feedback(VIEW, {"feedback": [told]}) == 1
        server = Server(cds_app(again, CdsOptions()))
        journal.close()
        with httpx.Client(base_url=server.url, trust_env=False) as http:
            lost = http.post(f"/cds-services/{VIEW}/feedback", json={"feedback": [told]})
            shown = http.post(f"/cds-services/{VIEW}", json=hook("patient-view"))
        server.stop()
    assert lost.status_code == 503
    assert shown.status_code == 200 and shown.json()["cards"]  # an alert is shown although it is not on record
    assert again.unjournalled == 1


def test_suggestions_are_resources_that_fhir_takes(tmp_path: Path) -> None:
    from smallhold.assist.interop.cds_cards import alert_cards
    from smallhold.assist.interop.cds_view import Picture
    from smallhold.records import ActionClass, Ask

    from .test_fhir_out import LIVE, NOW_MS, alert

    ask = Ask(
        patient="p", t_ms=NOW_MS, action=ActionClass.A3, question="Order 2 U?", confirmations=1, expires_ms=NOW_MS + 1,
        provenance=LIVE,
    )  # fmt: skip
    ((issued),) = alert_cards(Picture(patient="p", alerts=(alert(),), asks=(ask,)), str(uuid.uuid4()), DIALECT)
    (suggestion,) = issued.card["suggestions"]
    check(suggestion["actions"][0]["resource"], "r4")
    assert issued.card["selectionBehavior"] == "at-most-one"


def test_a_live_ward_mounted_in_another_application(tmp_path: Path) -> None:
    ward = Ward(tmp_path, Clocks())
    for code, (value, unit) in BAD.items():
        ward.put(code, value, unit)
    ward.turn(2)
    stop = threading.Event()
    runner = threading.Thread(target=ward.live.run, args=(stop,), daemon=True)
    service = CdsService(LiveView(ward.live), ward.journal, DIALECT)
    server = Server(Starlette(routes=[Mount("/ward", routes=cds_routes(service))]))
    runner.start()
    with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as http:
        (card,) = http.post(f"/ward/cds-services/{VIEW}", json=hook("patient-view")).json()["cards"]
        told = {"card": card["uuid"], "outcome": "accepted", "outcomeTimestamp": "2030-01-01T00:00:00Z"}
        assert http.post(f"/ward/cds-services/{VIEW}/feedback", json={"feedback": [told]}).status_code == 200
    server.stop()
    stop.set()
    runner.join(10)
    assert {"cds-card", "feedback"} <= set(ward.kinds())
    ward.die()


def part(value: Any) -> bytes:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def token(key: Any, url: str, *, head: dict[str, Any] | None = None, **claims: Any) -> str:
    is_ec = isinstance(key, ec.EllipticCurvePrivateKey)
    header = {"alg": "ES384" if is_ec else "RS384", "typ": "JWT", "kid": "ec" if is_ec else "rsa", **(head or {})}
    now = int(time.time())
    body = {"iss": "https://ehr.example", "aud": url, "iat": now, "exp": now + 300, "jti": uuid.uuid4().hex, **claims}
    signed = part(header) + b"." + part(body)
    if is_ec:
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA384())))
        signature = r.to_bytes(48) + s.to_bytes(48)
    else:
        signature = key.sign(signed, padding.PKCS1v15(), hashes.SHA384())
    return "Bearer " + (signed + b"." + part(signature)).decode()


BASE = "https://cds.example"
PATH = f"/cds-services/{VIEW}"
CLIENTS = (Client("https://ehr.example", {"ec": EC_KEY.public_key(), "rsa": RSA_KEY.public_key()}),)


@pytest.mark.parametrize("key", [EC_KEY, RSA_KEY], ids=["ES384", "RS384"])
def test_a_token_is_taken_once(key: Any) -> None:
    gate, good = TokenGate(CLIENTS, BASE), token(key, BASE + PATH)
    assert gate.check(good, PATH) == "https://ehr.example"
    with pytest.raises(TokenError, match="used before"):
        gate.check(good, PATH)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("", "Bearer"),
        ("Bearer a.b", "three parts"),
        (token(ec.generate_private_key(ec.SECP384R1()), BASE + PATH), "signature"),
        (token(EC_KEY, BASE + PATH, head={"alg": "none"}), "alg"),
        (token(EC_KEY, BASE + PATH, head={"alg": "HS384"}), "alg"),
        (token(EC_KEY, BASE + PATH, head={"kid": "rsa"}), "alg"),
        (token(EC_KEY, BASE + PATH, head={"kid": "other"}), "kid"),
        (token(EC_KEY, BASE + PATH, head={"crit": ["x"]}), "crit"),
        (token(EC_KEY, BASE + PATH, iss="https://other.example"), "iss"),
        (token(EC_KEY, BASE + "/cds-services/other"), "aud"),
        (token(EC_KEY, BASE + PATH, exp=int(time.time()) - 60, iat=int(time.time()) - 120), "exp"),
        (token(EC_KEY, BASE + PATH, exp=int(time.time()) + 4000), "exp"),
        (token(EC_KEY, BASE + PATH, iat=int(time.time()) + 4000, exp=int(time.time()) + 4100), "iat"),
        (token(EC_KEY, BASE + PATH, jti=""), "jti"),
        (token(EC_KEY, BASE + PATH, iat="now"), "numbers"),
        (token(EC_KEY, BASE + PATH)[:-4] + "????", "base64url"),
    ],
)
def test_tokens_that_are_not_taken(bad: str, says: str) -> None:
    with pytest.raises(TokenError, match=says):
        TokenGate(CLIENTS, BASE).check(bad, PATH)


def test_clients_come_from_a_file(tmp_path: Path) -> None:
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "ec.pem").write_bytes(EC_KEY.public_key().public_bytes(*form))
    (tmp_path / "ed.pem").write_bytes(KEY.public_key().public_bytes(*form))
    path = tmp_path / "clients.toml"
    path.write_text('[[client]]\niss = "https://ehr.example"\nkeys = {ec = "ec.pem"}\n')
    assert TokenGate(read_clients(path), BASE).check(token(EC_KEY, BASE + PATH), PATH)
    for text, says in (
        ("", "expected \\[\\[client\\]\\]"),
        ('[[client]]\niss = "a"\n', "iss and a table keys"),
        ('[[client]]\niss = "a"\nkeys = {k = "ed.pem"}\n', "P-384"),
        ('[[client]]\niss = "a"\nkeys = {k = "none.pem"}\n', "none.pem"),
    ):
        path.write_text(text)
        with pytest.raises((RecipeError, InputError), match=says):
            read_clients(path)


def test_strangers_are_kept_out_by_the_options(ward_journal: Path, tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(InputError, match="cannot listen"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(InputError, match="without TLS"):
        CdsOptions(host="0.0.0.0")
    with Journal.open(tmp_path / "f.db", key=KEY) as journal:
        service = make_service(ward_journal, journal)
        outside = CdsOptions(host="0.0.0.0", certificate_file=tmp_path, key_file=tmp_path)
        with pytest.raises(InputError, match="without a token"):
            cds_app(service, outside)
        gate = TokenGate(CLIENTS, "http://testserver")
        server = Server(cds_app(service, CdsOptions(), gate=gate))
        gate._audience = server.url
        with httpx.Client(base_url=server.url, trust_env=False) as http:
            refused = http.post(PATH, json=hook("patient-view"))
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            good = {"Authorization": token(EC_KEY, server.url + PATH)}
            assert http.post(PATH, json=hook("patient-view"), headers=good).status_code == 200
            assert http.get("/cds-services").status_code == 200
        server.stop()


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=300))
def test_no_text_becomes_markup_or_a_second_line(text: str) -> None:
    shown = escape_markdown(text)
    assert "\n" not in shown and "\r" not in shown
    for mark in "<[]*_`#!":
        assert all(shown[i - 1] == "\\" for i, c in enumerate(shown) if c == mark)
    line = summary(text)
    assert len(line) < 140 and line.isprintable()


def test_the_command_answers_beside_a_ward(ward_journal: Path, tmp_path: Path) -> None:
    init(Home(tmp_path / "home"))
    variables = {**os.environ, "SMALLHOLD_HOME": str(tmp_path / "home")}
    words = ["interop", "cds", "--port", "0", "--json", "--journal", str(tmp_path / "open.db")]
    with Journal.open(tmp_path / "open.db") as open_journal, Journal.open(ward_journal, key=KEY) as kept:
        for entry, payload in kept.entries():
            open_journal.append(entry.kind, payload or b"")
    process = subprocess.Popen(
        [sys.executable, "-m", "smallhold.cli.main", *words], env=variables, stdout=subprocess.PIPE, text=True
    )
    alarm = threading.Timer(60, process.kill)
    alarm.start()
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    answer = httpx.post(f"{told['url']}/{VIEW}", json=hook("patient-view"), trust_env=False, timeout=30)
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    alarm.cancel()
    assert answer.json()["cards"][0]["indicator"] == "critical"
    assert Path(told["feedback"]).exists()


def test_a_view_of_the_journal_knows_what_a_person_has_seen(tmp_path: Path) -> None:
    ward = Ward(tmp_path, Clocks())
    for code, (value, unit) in BAD.items():
        ward.put(code, value, unit)
    ward.turn()
    view = JournalView(tmp_path / "journal.db", KEY)

    def states() -> dict[str, str]:
        picture = view.picture("p")
        return {} if picture is None else {alert.condition: alert.state.value for alert in picture.alerts}

    assert states()["deterioration"] == "active"
    ward.live.acknowledge("p", "deterioration", "nurse A")
    assert states()["deterioration"] == "acknowledged"
    live = {alert.condition: alert.state.value for alert in ward.live.beds["p"].bed.alarms.current("p")}
    assert states() == live
    ward.live.discharge("p", "clerk")
    assert view.picture("p") is None
    ward.die()
