import argparse
import json
import sqlite3
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_a_count_below_one_is_wrong_usage(run, count):
    with pytest.raises(SystemExit):
        run("show", "--last", count)
