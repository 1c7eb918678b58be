"""`smallhold bedside` as a user starts it: a broker, a listener, patients that are played, and a ward."""

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from itertools import count
from pathlib import Path

import pytest
from tests.assist.sources.broker import free_port, mosquitto

from smallhold.assist.roster import read_roster
from smallhold.assist.ward_view import Line, percentiles, safe_text
from smallhold.cli.main import main
from smallhold.device.home import Home, init
from smallhold.errors import InputError, RecipeError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    init(home)
    return home


def test_a_rehearsal_over_both_ways_decides_alarms_and_journals(home: Home) -> None:
    mosquitto()
    done = subprocess.run(
        [
            sys.executable, "-m", "smallhold.cli.main", "bedside", "models/hospital", "--trusted-keys",
            "models/trusted_keys", "--home", home.path, "--rehearse", "both", "--simulated", "--speed", "1500",
            "--patients", "6", "--seconds", "16", "--json", "--profile", "eu",
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["is_simulated"] and told["is_rehearsal"] and told["beds"] == 6
    assert told["decisions"] > 0 and told["model_failures"] == 0
    assert told["unjournalled"] == 0 and not told["dropped"]
    assert {source["name"]: source["received"] > 0 for source in told["sources"]} == {"mqtt": True, "mllp": True}
    assert "simulated" in done.stderr  # every alert says so
    verified = subprocess.run(
        [sys.executable, "-m", "smallhold.cli.main", "journal", "--home", home.path, "verify"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert verified.returncode == 0, verified.stderr


def test_a_ward_follows_fhir_and_a_file_with_codes_of_its_own(home: Home, tmp_path: Path) -> None:
    port, token = free_port(), "0123456789abcdef-token"
    files = {name: tmp_path / name for name in ("roster.toml", "codes.toml", "token", "ward.csv")}
    files["roster.toml"].write_text("format = 1\n[patients.bed-1]\nage = 70\n")
    files["codes.toml"].write_text('[codes."http://hospital.example"]\npuls = "HR"\n')
    files["token"].write_text(token)
    files["token"].chmod(0o600)
    now_ms = time.time_ns() // 1_000_000
    files["ward.csv"].write_text(f"id,patient,code,value,unit,t\nc1,bed-1,RespRate,34,/min,{now_ms}\n")
    observation = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://hospital.example", "code": "puls"}]},
        "subject": {"reference": "Patient/bed-1"},
        "effectiveInstant": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "valueQuantity": {"value": 140, "system": "http://unitsofmeasure.org", "code": "/min"},
    }
    words = ["bedside", "models/hospital", "--trusted-keys", "models/trusted_keys", "--home", str(home.path)]
    words += ["--fhir", str(port), "--token-file", str(files["token"]), "--csv", str(files["ward.csv"])]
    words += ["--codes", str(files["codes.toml"]), "--roster", str(files["roster.toml"]), "--json", "--plain"]
    process = subprocess.Popen(
        [sys.executable, "-m", "smallhold.cli.main", *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    heard: list[str] = []
    is_alarmed = threading.Event()

    def listen(stream: Iterable[str]) -> None:
        for line in stream:
            heard.append(line)
            if "respiratory rate 34" in line:
                is_alarmed.set()

    listener = threading.Thread(target=listen, args=[process.stderr])
    listener.start()
    try:
        deadline = time.monotonic() + 60
        # An answer that it is not on record yet may come while the ward starts: asked again under a new name.
        for number in count():
            if _is_taken(port, token, observation | {"id": f"o-{number}"}):
                break
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        assert is_alarmed.wait(60)  # the floor's alert, of the file's reading
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    finally:
        process.kill()
        listener.join(60)
    out, err = process.stdout.read(), "".join(heard)
    assert process.returncode == 0, err
    told = json.loads(out)
    assert {source["name"]: source["received"] > 0 for source in told["sources"]} == {"fhir": True, "csv": True}
    assert [source["refused"] for source in told["sources"]] == [{}, {}]
    assert told["unjournalled"] == 0
    assert token not in out + err


def _is_taken(port: int, token: str, observation: dict[str, object]) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Content-Type": "application/fhir+json", "Authorization": f"Bearer {token}"}
    try:
        connection.request("POST", "/fhir/Observation", json.dumps(observation), headers)
        return connection.getresponse().status == 201
    except OSError:
        return False
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected either --rehearse, or any of --mqtt, --mllp, --fhir and --csv with a --roster"),
        (["--rehearse", "mqtt", "--mllp", "0"], "expected either --rehearse"),
        (["--mllp", "0"], "--roster: a ward with monitors needs to know who lies on it"),
        (["--mllp", "0", "--roster", "x.toml", "--speed", "2"], "a person's hour lasts an hour"),
        (["--rehearse", "mllp", "--seconds", "0"], "--patients and --seconds must be positive"),
        (["--rehearse", "mllp", "--lost-after", "-1"], "--lost-after must be positive"),
    ],
)
def test_what_makes_no_ward_is_refused(
    words: list[str], message: str, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bedside", "--home", str(home.path), *words]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected format = 1"),
        ("format = 1\n[patients]", "names no patient"),
        ("format = 1\n[patients.a]\nname = 'x'", "a: unknown entry 'name', expected some of age, sex"),
        ("format = 1\n[patients.a]\nage = 7", "age: expected 16 to 130 years"),
        ("format = 1\n[patients.a]\nage = true", "a: age: got True"),
        ("format = 1\n[patients.'a b']\nage = 70", "patient"),
        ("format = [", "cannot be read"),
    ],
)
def test_a_roster_with_a_fault_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "roster.toml"
    path.write_text(text)
    with pytest.raises((RecipeError, InputError), match=re.escape(message)):
        read_roster(path)


def test_nothing_that_a_terminal_obeys_is_drawn() -> None:
    hostile = "bed\x1b[2J\x07\u202e\u200bname"
    assert safe_text(hostile) == "bed\ufffd[2J\ufffd\ufffd\ufffdname"
    assert "\x1b" not in Line(hostile).paint(80, is_coloured=False)
    assert Line("x" * 200, "1").paint(10, is_coloured=True) == "\x1b[1m" + "x" * 10 + "\x1b[0m"


def test_percentiles_of_nothing_and_of_one() -> None:
    assert percentiles([]) == {"n": 0, "p50": None, "p99": None, "max": None}
    assert percentiles([2.5])["p99"] == 2.5
    assert percentiles(list(range(101)))["p50"] == 50
