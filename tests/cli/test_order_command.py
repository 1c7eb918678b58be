import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.assist.orders import is_stopped
from smallhold.cli.main import main
from smallhold.device.home import Home, init
from smallhold.device.trust import save_private_key, save_public_key

ORDER = """
format = 1
name = "insulin-night"
drug = "insulin-regular"
unit = "U"
dose_max = "1.5"
rate_max = "6"
rate_window_seconds = 3600
total_max = "40"
count_max = 300
interval_seconds = 240
not_before = "2020-01-01T00:00:00Z"
expires = "2020-12-31T00:00:00Z"
ward = "3-north"
required_signatures = 2
[[bound]]
code = "Glucose"
unit = "mg/dL"
min = "110"
max = "400"
max_age_seconds = 600
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    init(made)
    (made.orders / "trust").mkdir(parents=True)
    for number in (1, 2, 3):
        key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        save_private_key(key, tmp_path / f"{number}.pem")
        if number < 3:
            save_public_key(key.public_key(), made.orders / "trust" / f"{number}.pem")
    (tmp_path / "order.toml").write_text(ORDER)
    return made


def order(home: Home, *words: object) -> int:
    return main(["order", *map(str, words), "--home", str(home.path)])


def test_an_order_is_signed_by_two_then_listed_and_revoked(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert order(home, "check", tmp_path / "order.toml") == 0
    captured = capsys.readouterr()
    assert "one dose   at most 1.5 U, 240 s apart" in captured.out and "nobody can use it yet" in captured.err
    assert "only if    Glucose from 110 to 400 mg/dL, at most 600 s old" in captured.out
    signed = tmp_path / "signed.json"
    assert order(home, "sign", tmp_path / "order.toml", "--key", tmp_path / "1.pem", "--out", signed) == 0
    assert "signatures: 1 of 2 required" in capsys.readouterr().out
    assert order(home, "check", signed) == 1
    assert "expected signatures of 2 distinct people, got 1" in capsys.readouterr().err
    assert order(home, "sign", signed, "--key", tmp_path / "2.pem") == 0  # into the home
    assert order(home, "check", next(home.orders.glob("*.json"))) == 0
    assert "it covers nothing now: expired" in capsys.readouterr().err
    assert order(home, "list", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["orders"]
    assert (row["state"], row["for"], row["signatures"]) == ("expired", "ward 3-north", 2)
    assert order(home, "revoke", row["digest"][:8], "--reason", "wrong ward", "--key", tmp_path / "3.pem") == 1
    assert "signed by nobody" in capsys.readouterr().err and not (home.orders / "revoked").exists()
    assert order(home, "revoke", row["digest"][:8], "--reason", "wrong ward", "--key", tmp_path / "2.pem") == 0
    assert order(home, "list") == 0
    assert "revoked" in capsys.readouterr().out
    assert order(home, "revoke", "abc", "--reason", "r", "--key", tmp_path / "2.pem") == 1


def test_what_cannot_be_used_is_named(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert order(home, "list") == 0
    assert "no order that can be used" in capsys.readouterr().out
    assert order(home, "sign", tmp_path / "order.toml", "--key", tmp_path / "1.pem") == 0
    assert order(home, "list") == 1
    assert "not used: insulin-night" in capsys.readouterr().err
    (home.orders / "revoked").mkdir()
    (home.orders / "revoked" / "x.json").write_text("{}")
    assert order(home, "list") == 1
    assert "not used: revoked/x.json" in capsys.readouterr().err
    assert order(home, "sign", tmp_path / "none.toml", "--key", tmp_path / "1.pem") == 1
    (tmp_path / "order.toml").write_text(ORDER.replace('"1.5"', "1.5"))
    assert order(home, "sign", tmp_path / "order.toml", "--key", tmp_path / "1.pem") == 1
    assert "expected a decimal number in quotation marks" in capsys.readouterr().err


def test_stop_and_resume(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert order(home, "stop") == 0 and is_stopped(home.path)
    assert order(home, "list") == 0
    assert "releases: STOPPED" in capsys.readouterr().out
    assert order(home, "resume") == 0 and not is_stopped(home.path)
    capsys.readouterr()
    assert order(home, "resume", "--json") == 0
    assert json.loads(capsys.readouterr().out)["was_stopped"] is False
    assert order(Home(tmp_path / "gone"), "resume") == 1
    assert "counts as stopped" in capsys.readouterr().err


def test_the_demonstration_says_that_it_is_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["order", "demo", "glucose", "--profile", "eu", "--patients", "20"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("SIMULATED glucose, seed 0, profile eu: nobody was treated")
    rows = [line for line in out.splitlines() if "people confirm each dose" in line]
    assert len(rows) == 1
    assert main(["order", "demo", "glucose", "--profile", "in", "--patients", "5", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["is_simulated"] is True and shown["arms"][1]["counts"]["forbidden"] > 0


def test_a_demonstration_does_not_load_what_a_device_would_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["order", "demo", "glucose", "--profile", "eu-closed-loop"]) == 1
    assert "nobody has read in their source" in capsys.readouterr().err
    assert main(["order", "demo", "pressure", "--profile", "us-cds-nondevice"]) == 1
    assert "refuses a continuous source" in capsys.readouterr().err
    assert main(["order", "demo", "glucose", "--patients", "0"]) == 1
