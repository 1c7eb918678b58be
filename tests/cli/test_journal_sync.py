import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from smallhold.assist.sync import ACT, RECORD, SyncNode
from smallhold.cli import journal as command
from smallhold.device.home import Home, init
from smallhold.device.journal import Journal
from smallhold.device.trust import save_public_key
from smallhold.errors import InputError


@pytest.fixture
def homes(tmp_path: Path) -> dict[str, Home]:
    made = {}
    for name in ("bed", "ward"):
        made[name] = home = Home(tmp_path / name)
        init(home)
        save_public_key(home.device_key().public_key(), tmp_path / f"{name}.pem")
        with Journal.open(home.journal, key=home.device_key()) as journal:
            SyncNode(journal, name).act("acknowledge", actor=f"nurse of {name}", about="p/c/1", patient="p")
            if name == "bed":
                journal.append("step", b'{"patient":"p"}', patient="p")
    return made


def words(name: str, tmp_path: Path, *more: object) -> list[str]:
    peer = "ward" if name == "bed" else "bed"
    ward = ["--ward"] if name == "ward" else []
    told = ["sync", "--name", name, "--peer", f"{peer}={tmp_path / peer}.pem", *ward, *map(str, more)]
    return [*told, "--home", str(tmp_path / name)]


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.set_defaults(json=False)
    command.configure(parser)
    return command.run(parser.parse_args(arguments))


def test_two_homes_exchange_by_a_folder_and_show_a_conflict(homes, tmp_path, capsys) -> None:
    folder = tmp_path / "stick"
    folder.mkdir()
    for name in ("bed", "ward", "bed", "ward"):
        capsys.readouterr()
        assert run(words(name, tmp_path, "--folder", folder)) == 0
    out = capsys.readouterr().out
    assert "CONFLICT about p/c/1: " in out and "nurse of bed on bed: acknowledge" in out
    with Journal.open(homes["ward"].journal, key=homes["ward"].device_key()) as journal:
        have = SyncNode(journal, "ward", wants=(ACT, RECORD)).have
    assert have["bed", ACT] == 0 and have["bed", RECORD] == 1
    for file in folder.iterdir():
        file.write_bytes(b"cut")
    assert run(words("bed", tmp_path, "--folder", folder)) == 1
    assert "not a batch for this device" in capsys.readouterr().err


def test_two_homes_exchange_over_http(homes, tmp_path, capsys) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = "import sys; from smallhold.cli.main import main; sys.exit(main())"
    serving = ["journal", *words("ward", tmp_path, "--serve", 0), "--json"]
    server = subprocess.Popen(
        [sys.executable, "-c", code, *serving], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        assert run([*words("bed", tmp_path, "--url", url), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        (exchanged,) = told["exchanged"]
        assert (exchanged["acts"], exchanged["sent"], exchanged["error"]) == (1, 2, "")
        assert [item["about"] for item in told["open_conflicts"]] == ["p/c/1"]
    finally:
        server.terminate()
        server.communicate(timeout=20)
    assert run(words("bed", tmp_path, "--url", url)) == 1


def test_misuse_is_refused(homes, tmp_path) -> None:
    with pytest.raises(InputError, match="expected NAME=PEM, got 'ward'"):
        run(["sync", "--name", "bed", "--peer", "ward", "--folder", "x", "--home", str(tmp_path / "bed")])
    with pytest.raises(InputError, match="is not a directory"):
        run(words("bed", tmp_path, "--folder", tmp_path / "absent"))
    with pytest.raises(InputError, match="--url: expected one --peer, got 2"):
        run([*words("bed", tmp_path, "--url", "http://127.0.0.1:1"), "--peer", f"x={tmp_path / 'bed.pem'}"])
