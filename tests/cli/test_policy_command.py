import json
from pathlib import Path

import pytest

from smallhold.cli.main import main


def test_show_prints_effects_duties_clauses_and_drafts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "show", "eu-closed-loop"]) == 0
    out = capsys.readouterr().out
    rows = {
        line.split()[0]: line.split()[1:]
        for line in out.splitlines()
        if line[:2] in {"A0", "A4", "A5"} and "dut" not in line
    }
    assert rows["A4"] == ["one", "auto", "-", "-", "-", "-", "-", "one", "-"]
    assert rows["A5"] == ["-"] * 9 and rows["A0"] == ["auto"] * 9
    assert "draft  mdr-r22: Regulation (EU) 2017/745, Annex VIII, Rule 22" in out
    assert "permits on drafts alone, refused unless allowed by name: eu-closed-loop" in out
    assert "A2 duties: disclose_ai" in out


def test_show_says_which_sources_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "show", "us-cds-nondevice", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["refuses_sources"] == ["continuous"] and shown["extends"] == ["base-clinical", "us"]
    assert shown["effects"]["A3"]["all well"] == "forbid" and shown["clauses"]["us-cds-discrete"]["status"] == "draft"
    assert main(["policy", "show", "us-cds-nondevice", "--source", "continuous"]) == 1


def test_show_exports_cedar(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "show", "eu", "--cedar"]) == 0
    assert '@id("eu-eu-class-three")' in capsys.readouterr().out


def test_check_fails_when_one_is_unsafe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "check", "eu", "ru"]) == 0
    assert capsys.readouterr().out.count("safe: ") == 2
    site = tmp_path / "site.toml"
    site.write_text(
        'format = 1\nname = "site"\nversion = "1"\nnote = "n"\nextends = "eu"\n[clauses.c]\n'
        'source = "s"\nsummary = "t"\nstatus = "read"\n'
        '[[oblige]]\nid = "r"\nwhen = {}\nclauses = ["c"]\nobligations = ["residency=US"]\n'
    )
    assert main(["policy", "check", "eu", str(site), "eu-closed-loop"]) == 1
    captured = capsys.readouterr()
    assert "residency=EEA and residency=US" in captured.err and "safe: eu " in captured.out
    assert main(["policy", "check", "eu-closed-loop", "--allow-drafts"]) == 0
    capsys.readouterr()
    assert main(["policy", "check", "us-cds-nondevice", "--source", "continuous", "--json"]) == 1
    (result,) = json.loads(capsys.readouterr().out)
    assert result["is_safe"] is False and "refuses a continuous source" in result["error"]


def test_list_names_what_ships(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "list", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["eu-closed-loop"]["extends"] == "eu" and len(shown) == 9
    assert main(["policy", "list"]) == 0
    assert "cn " in capsys.readouterr().out
    assert main(["policy", "show", "atlantis"]) == 1
