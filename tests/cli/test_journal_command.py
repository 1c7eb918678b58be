import argparse
import json
import sqlite3
from pathlib import Path

import pytest

from smallhold.assist.live_state import LiveState
from smallhold.cli import journal as command
from smallhold.device.home import Home, init
from smallhold.device.journal import Journal
from smallhold.device.trust import save_public_key
from smallhold.errors import InputError, JournalError


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path / "home")
    init(made)
    with Journal.open(made.journal, key=made.device_key(), clock=lambda: 1_700_000_000_000) as journal:
        for number in range(30):
            journal.append("alert" if number % 10 == 0 else "step", b'{"n":%d}' % number)
        journal.append("note", b"\x1b[2J\xff" + b"x" * 200)
        journal.erase(5, "asked")
    return made


@pytest.fixture
def run(home):
    def call(*words):
        parser = argparse.ArgumentParser()
        parser.add_argument("--json", action="store_true")
        parser.add_argument("--home", type=Path, default=None)
        command.configure(parser)
        return command.run(parser.parse_args([*map(str, words), "--home", str(home.path)]))

    return call


def test_show_prints_the_last_entries_oldest_first(run, capsys):
    assert run("show", "--last", 4) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["28", "29", "30", "31"]
    assert lines[0].split() == ["28", "2023-11-14", "22:13:20", "step", '{"n":28}']
    assert "\x1b" not in lines[2]
    assert lines[2].endswith("…")


def test_show_of_one_kind_finds_it_further_back(run, capsys):
    assert run("show", "--kind", "alert", "--last", 2, "--json") == 0
    values = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(value["seq"], value["payload"]) for value in values] == [(10, {"n": 10}), (20, {"n": 20})]


def test_show_marks_erased_payloads_and_encodes_bytes(run, capsys):
    assert run("show", "--last", 32) == 0
    assert "(erased)" in capsys.readouterr().out.splitlines()[5]
    assert run("show", "--last", 2, "--json") == 0
    assert "payload_base64" in json.loads(capsys.readouterr().out.splitlines()[0])


def test_verify_says_what_it_found(run, capsys):
    assert run("verify") == 0
    out = capsys.readouterr().out
    assert "intact: 32 entries, 1 payloads erased" in out
    assert "no outside checkpoint given" in out
    assert run("verify", "--json") == 0
    assert json.loads(capsys.readouterr().out)["is_intact"] is True


def test_a_kept_checkpoint_finds_a_cut_tail(run, home, tmp_path, capsys):
    assert run("verify", "--keep", tmp_path / "kept.json") == 0
    assert run("verify", "--outside", tmp_path / "kept.json") == 0
    assert "compared with an outside checkpoint" in capsys.readouterr().out
    with sqlite3.connect(home.journal) as database:
        for table in ("entries", "payloads", "checkpoints"):
            database.execute(f"DELETE FROM {table} WHERE seq > 3")
    assert run("verify") == 0
    assert run("verify", "--outside", tmp_path / "kept.json") == 1
    assert "NOT INTACT: cut tail at entry 4" in capsys.readouterr().out


def test_verify_of_an_altered_journal_prints_where_and_fails(run, home, capsys):
    with sqlite3.connect(home.journal) as database:
        database.execute("UPDATE payloads SET payload = 'x' WHERE seq = 17")
    assert run("verify") == 1
    assert "NOT INTACT: altered payload at entry 17" in capsys.readouterr().out
    assert run("verify", "--json") == 1
    assert json.loads(capsys.readouterr().out)["problem"]["seq"] == 17


def test_an_export_is_verified_with_the_public_key_alone(run, home, tmp_path, capsys):
    save_public_key(home.device_key().public_key(), tmp_path / "device.pem")
    assert run("export", tmp_path / "out.jsonl", "--json") == 0
    assert json.loads(capsys.readouterr().out)["entries"] == 32
    home.device_key_path.unlink()
    with pytest.raises(InputError, match="no key at"):
        run("verify")
    assert run("verify", "--export", tmp_path / "out.jsonl", "--key", tmp_path / "device.pem") == 0


def test_errors_name_the_file(run, home, tmp_path):
    with pytest.raises(InputError, match=r"absent\.json cannot be read"):
        run("verify", "--outside", tmp_path / "absent.json")
    with pytest.raises(InputError, match="cannot be written"):
        run("verify", "--keep", tmp_path / "absent" / "kept.json")
    home.journal.unlink()
    with pytest.raises(JournalError, match="no journal at"):
        run("show")


def test_erase_takes_the_bed_of_a_ward_that_ended(run, home, capsys):
    state = LiveState(home.journal.with_name("ward.db"))
    for patient in ("patient-seven", "patient-eight"):
        state.owe(patient, "HR", 80.0, 1)
        state.owe(patient, "", 0.0, 2, "kidney-injury")
        state.save({patient: {"readings": {}}}, {"journal_seq": 1})
    state.close()
    with Journal.open(home.journal, key=home.device_key()) as journal:
        journal.append("step", b"secret reading", patient="patient-seven")
    words = ("erase", "--patient", "patient-seven", "--reason", "asked in writing")
    assert run(*words) == 1
    assert "patient-seven" in _texts(home.path)  # nothing is done before --yes
    assert run(*words, "--yes", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["bed"] is True
    assert "patient-seven" not in _texts(home.path)
    assert "patient-eight" in _texts(home.path)


def _texts(folder):
    return "".join(file.read_bytes().decode("latin-1") for file in folder.glob("ward.db*"))


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_a_count_below_one_is_wrong_usage(run, count):
    with pytest.raises(SystemExit):
        run("show", "--last", count)


def test_erase_says_what_it_would_do_and_does_it_with_yes(run, home, capsys):
    with Journal.open(home.journal, key=home.device_key()) as journal:
        for _ in range(3):
            journal.append("step", b"secret reading", patient="p7")
    words = ("erase", "--patient", "p7", "--reason", "asked in writing")
    assert run(*words) == 1
    assert "3 payloads would be erased" in capsys.readouterr().out
    assert run("show", "--last", 1, "--json") == 0
    assert json.loads(capsys.readouterr().out)["payload_base64"]
    assert run(*words, "--yes", "--json") == 0
    assert json.loads(capsys.readouterr().out)["payloads"] == 3
    assert run("verify") == 0
    assert "4 payloads erased" in capsys.readouterr().out
    with pytest.raises(JournalError, match="nothing is sealed for this patient"):
        run(*words, "--yes")
    with pytest.raises(InputError, match="does not name the patient"):
        run("erase", "--patient", "p7", "--reason", "p7 asked", "--yes")


def test_without_the_homes_key_sealed_payloads_are_shown_as_such(run, home, tmp_path, capsys):
    with Journal.open(home.journal, key=home.device_key()) as journal:
        journal.append("step", b"secret reading", patient="p7")
    home.device_key_path.rename(tmp_path / "away.pem")
    assert run("show", "--last", 1) == 0
    out = capsys.readouterr().out
    assert "(sealed)" in out and "secret" not in out
    assert run("show", "--last", 1, "--json") == 0
    assert json.loads(capsys.readouterr().out)["is_sealed"] is True


def test_a_witness_finds_what_the_devices_own_key_rewrote(run, home, tmp_path, capsys):
    witness = Home(tmp_path / "witness")
    init(witness)
    keys = tmp_path / "device.pem", tmp_path / "witness.pem"
    for path, owner in zip(keys, (home, witness), strict=True):
        save_public_key(owner.device_key().public_key(), path)
    offer, statement = tmp_path / "offer.json", tmp_path / "statement.json"

    def state(*words):
        parser = argparse.ArgumentParser()
        command.configure(parser)
        args = parser.parse_args(
            ["witness", str(offer), "--out", str(statement), *map(str, words), "--home", str(witness.path)]
        )
        args.json = False
        return command.run(args)

    assert run("checkpoint", "--out", offer) == 0
    assert state("--device-key", keys[0]) == 0
    assert run("verify", "--witness", statement, "--witness-key", keys[1]) == 0
    assert run("checkpoint", "--out", offer, "--since", statement) == 0
    assert state() == 0
    assert run("verify", "--keep", tmp_path / "kept.json") == 0
    with Journal.open(home.journal, key=home.device_key()) as journal:
        journal.append("step", b"later")
    assert run("verify", "--since", tmp_path / "kept.json") == 0
    with sqlite3.connect(home.journal) as database:
        for table in ("entries", "payloads", "checkpoints"):
            database.execute(f"DELETE FROM {table}")
    with Journal.open(home.journal, key=home.device_key()) as journal:
        for _ in range(40):
            journal.append("step", b"another story")
    assert run("verify") == 0
    capsys.readouterr()
    assert run("verify", "--witness", statement, "--witness-key", keys[1]) == 1
    assert "rewritten since checkpoint" in capsys.readouterr().out
    assert run("checkpoint", "--out", offer) == 0
    with pytest.raises(JournalError, match="FORK"):
        state()
    with pytest.raises(JournalError, match="whose key was not given"):
        run("verify", "--witness", statement)


def test_retention_by_profile(run, home, capsys):
    # The fixture's entries are of 2023: older than 184 days.
    assert run("retain", "--profile", "eu", "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["days"], told["erased"], told["is_dry_run"]) == (184, 30, True)
    assert run("retain", "--profile", "eu") == 0
    assert "30 payloads and 0 data keys erased: older than 184 days" in capsys.readouterr().out
    assert run("verify") == 0


def test_an_export_for_an_inspector(run, home, tmp_path, capsys):
    with Journal.open(home.journal, key=home.device_key()) as journal:
        journal.append("step", b'{"heart":80}', patient="p7")
    out = tmp_path / "out"
    assert run("export", out, "--inspector", "--patient", "p7", "--from", "2024-01-01") == 0
    assert "1 disclosed, 30 withheld" in capsys.readouterr().out
    save_public_key(home.device_key().public_key(), tmp_path / "device.pem")
    home.device_key_path.rename(tmp_path / "away.pem")  # without the home
    assert run("verify", "--export", out, "--key", tmp_path / "device.pem") == 0
    assert "withheld: 30 payloads" in capsys.readouterr().out
    assert run("verify", "--export", out) == 0
    assert "compare it with the device's" in capsys.readouterr().err
    with pytest.raises(InputError, match="are for an export with --inspector"):
        run("export", tmp_path / "x", "--patient", "p7")
