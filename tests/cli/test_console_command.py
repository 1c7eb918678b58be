"""`smallhold console`: accounts, and a ward with its page in a process of its own."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from smallhold.cli.main import main
from smallhold.federate.consent import ConsentList

pytest.importorskip("fastapi", reason="the console needs FastAPI, the extra 'console'")
import httpx

LONGEST_SECONDS = 60.0


def type_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_accounts_are_added_listed_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ["console", "--home", str(tmp_path), "user"]
    type_in(monkeypatch, "a long password\n")
    assert main([*home, "add", "Nora", "--role", "nurse"]) == 0
    assert "a long password" not in capsys.readouterr().out + (tmp_path / "accounts.json").read_text()
    assert main([*home, "list"]) == 0
    assert capsys.readouterr().out == "nurse      Nora\n"
    type_in(monkeypatch, "a long password\n")
    assert main([*home, "add", "Nora", "--role", "officer"]) == 1
    assert "account 'Nora': is there already" in capsys.readouterr().err
    type_in(monkeypatch, "short\n")
    assert main([*home, "add", "Paul", "--role", "physician"]) == 1
    assert "expected 10 to 256 characters, got 5" in capsys.readouterr().err
    assert main([*home, "remove", "Nora"]) == 0
    assert main([*home, "remove", "Nora"]) == 1
    assert "there is none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rehearse", "mllp", "--simulated"], "accounts.json: no such file"),
        (["--rehearse", "mllp", "--demo-accounts", "--address", "0.0.0.0"], "passwords would go in the clear"),
        (["--demo-accounts"], "expected either --rehearse, or any of --mqtt"),
        (["--rehearse", "mllp", "--demo-accounts", "--idle-minutes", "0"], "--idle-minutes: expected more than 0"),
    ],
)
def test_what_cannot_be_run_is_refused_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["console", "--home", str(tmp_path), "run", *options]) == 1
    assert message in capsys.readouterr().err


def withdraw_on_the_patients_page(staff: httpx.Client, *, csrf: str, bed: dict[str, Any]) -> str:
    """Staff pair a device with a bed; there the patient says that nobody may learn from their record."""
    code = staff.post(f"/api/beds/{bed['patient']}/pairing", headers={"x-csrf-token": csrf}).json()["code"]
    with httpx.Client(base_url=staff.base_url, headers={"Origin": staff.headers["Origin"]}, timeout=20) as device:
        paired = device.post("/patient/api/pair", json={"code": code}).json()
        said = {"kind": "consent", "id": "0" * 32, "purpose": "learning", "state": "withheld"}
        told = device.post(
            "/patient/api/actions", json={"actions": [said]}, headers={"x-smallhold-csrf": paired["csrf"]}
        )
        assert told.json() == {"results": [{"id": "0" * 32, "status": "done"}]}
    return str(bed["patient"])


@pytest.mark.slow
def test_a_ward_and_its_page_run_until_they_are_told_to_end(tmp_path: Path) -> None:
    assert main(["device", "--home", str(tmp_path), "init"]) == 0
    words = [
        sys.executable,
        "-m",
        "smallhold.cli.main",
        "console",
        "--home",
        str(tmp_path),
        "run",
        str(tmp_path / "none"),
    ]
    words += [
        "--rehearse",
        "mllp",
        "--simulated",
        "--patients",
        "2",
        "--speed",
        "600",
        "--demo-accounts",
        "--port",
        "0",
    ]
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + LONGEST_SECONDS
        while "engineer" not in (said := (tmp_path / "out").read_text()):
            assert time.monotonic() < deadline and process.poll() is None, said
            time.sleep(0.1)
        url = re.search(r"http://\S+", said)[0]  # type: ignore[index]
        password = re.search(r"nurse +(\S+)", said)[1]  # type: ignore[index]
        with httpx.Client(base_url=url, headers={"Origin": url.rstrip("/")}, timeout=20) as client:
            assert client.get("/").status_code == 200
            answer = client.post("/api/session", json={"name": "nurse", "password": password})
            assert answer.json()["role"] == "nurse"
            while not (beds := client.get("/api/ward").json()["beds"]):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            # There is no bundle: the floor goes on alone, and everything says so.
            assert beds[0]["is_simulated"] and beds[0]["is_degraded"] and beds[0]["model"] == "absent"
            status = client.get("/api/status").json()
            assert status["bundle_error"] and status["sources"][0]["is_connected"]
            patient = withdraw_on_the_patients_page(client, csrf=answer.json()["csrf"], bed=beds[0])
            assert ConsentList(tmp_path / "withdrawals.jsonl").allowed([patient, "somebody else"]) == [1]
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    finally:
        process.kill()
    said = (tmp_path / "out").read_text()
    assert "0 events are missing from it" in said and "the bundle is refused" in said
    assert main(["journal", "--home", str(tmp_path), "verify"]) == 0
    assert password not in (tmp_path / "journal.db").read_bytes().decode("latin-1")
