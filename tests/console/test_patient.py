"""The patient's page under the staff's console: staff pair a device, and read and take on what comes from it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests.console.station import ORIGIN, Station

from smallhold.assist.policy import load_profile
from smallhold.console.patient import Pairings, journalled, patient_router

NOWHERE = {"where": "nowhere", "choice": None, "confidence": 0, "has_abstained": True, "bundle": ""}


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Station]:
    """A station whose application also serves the patient's page."""
    made = Station(tmp_path)
    pairings = Pairings(write=journalled(made.journal))
    router = patient_router(made.ward, made.care, made.journal, pairings, profile=load_profile("eu"))
    made.app = made.remake(pairings=pairings, extra_routers=[router])
    made.put("p")
    made.put("q")
    yield made
    made.close()


def device(ward: Station, code: str) -> tuple[TestClient, dict[str, str]]:
    http = TestClient(ward.app, base_url=ORIGIN, raise_server_exceptions=False)
    told = http.post("/patient/api/pair", json={"code": code}, headers={"Origin": ORIGIN})
    assert told.status_code == 200, told.text
    return http, {"Origin": ORIGIN, "x-smallhold-csrf": told.json()["csrf"]}


def test_a_nurse_pairs_a_device_reads_a_report_and_takes_it_on(ward: Station) -> None:
    nurse = ward.client("Nora")
    code = nurse.post("/api/beds/p/pairing").json()["code"]
    phone, headers = device(ward, code)
    id = secrets.token_hex(16)
    report = {"kind": "intake", "id": id, "t_ms": 1, "language": "en", "text": "my chest hurts"}
    report |= {"triage": NOWHERE, "urgency": "emergency"}
    told = phone.post("/patient/api/actions", json={"actions": [report]}, headers=headers)
    assert told.json() == {"results": [{"id": id, "status": "done"}]}
    shown = nurse.get("/api/beds/p/reports").json()
    assert (shown["intakes"][0]["text"], shown["intakes"][0]["red_flags"]) == ("my chest hurts", ["chest-pain"])
    assert shown["devices"] == 1 and shown["has_page"] and not nurse.get("/api/beds/q/reports").json()["intakes"]

    def states() -> list[str]:
        bed = ward.ward.beds["p"].bed
        found = ward.ward.call(lambda: [a for a in bed.alarms.current("p") if a.condition == f"patient:{id}"])
        return [alert.state.value for alert in found]

    ward.wait(lambda: states() == ["active"])
    assert nurse.post(f"/api/beds/p/reports/{id}/take").status_code == 200
    assert nurse.get("/api/beds/p/reports").json()["intakes"][0]["taken_by"] == "Nora"
    assert phone.get("/patient/api/overview").json()["intakes"][0]["taken_by"] == "Nora"
    ward.wait(lambda: states() in ([], ["acknowledged"]))
    assert nurse.post("/api/beds/p/pairing/end").status_code == 200
    assert phone.get("/patient/api/overview").status_code == 401
    assert nurse.post(f"/api/beds/q/reports/{id}/take").status_code == 409


def test_each_door_has_its_own_key(ward: Station) -> None:
    phone, headers = device(ward, ward.client("Nora").post("/api/beds/p/pairing").json()["code"])
    assert phone.get("/api/beds/p").status_code == 401 and phone.get("/api/ward").status_code == 401
    staff = ward.client("Paul")
    assert staff.get("/patient/api/overview").status_code == 401
    engineer = ward.client("Emil")
    assert engineer.get("/api/beds/p/reports").status_code == 403
    assert engineer.post("/api/beds/p/pairing").status_code == 403
    assert staff.post("/api/beds/nobody/pairing").status_code == 404
    evil = phone.post(
        "/patient/api/actions", json={"actions": []}, headers={**headers, "Origin": "https://evil.example"}
    )
    assert evil.status_code == 403


def test_the_patients_page_may_run_its_engine_and_the_staffs_may_not(ward: Station) -> None:
    http = ward.client().http
    page = http.get("/patient/")
    assert page.status_code == 200 and "'wasm-unsafe-eval'" in page.headers["content-security-policy"]
    assert "trusted-types" not in page.headers["content-security-policy"]  # a worker is started from an address
    assert "wasm-unsafe-eval" not in http.get("/").headers["content-security-policy"]


def test_consent_of_the_patient_is_what_staff_see(ward: Station) -> None:
    phone, headers = device(ward, ward.client("Nora").post("/api/beds/p/pairing").json()["code"])
    said = {"kind": "consent", "id": secrets.token_hex(16), "purpose": "treatment", "state": "withheld"}
    phone.post("/patient/api/actions", json={"actions": [said]}, headers=headers)
    assert ward.client("Nora").get("/api/beds/p").json()["consent"] == "withheld"
    assert ward.client("Nora").get("/api/beds/q").json()["consent"] == "unknown"


def test_without_a_patients_page_no_device_can_be_paired(module_station: Station) -> None:
    nurse = module_station.client("Nora")
    refused = nurse.post("/api/beds/p/pairing")
    assert refused.status_code == 409 and "no patient's page is served here" in refused.json()["error"]
    assert nurse.get("/api/beds/p/reports").json()["has_page"] is False
