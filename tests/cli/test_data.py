import argparse
import json

import pytest

from smallhold.cli import data
from smallhold.errors import DataError


@pytest.fixture(autouse=True)
def nothing_is_found(tmp_path, monkeypatch):
    monkeypatch.delenv("SMALLHOLD_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run(*words, as_json=False):
    parser = argparse.ArgumentParser()
    data.configure(parser)
    parser.set_defaults(json=as_json)
    return data.run(parser.parse_args(words))


def test_list_shows_names_licences_and_what_is_here(tmp_path, capsys):
    (tmp_path / "mine" / "banking77").mkdir(parents=True)
    assert run("list", "--data", str(tmp_path / "mine")) == 0
    out, err = capsys.readouterr()
    assert "physionet2012_icu  [ODC-By 1.0" in out
    assert str(tmp_path / "mine" / "banking77") in out
    assert "not here" in out
    assert "next: smallhold data get NAME" in err


def test_list_as_json_is_json_alone(capsys):
    assert run("list", as_json=True) == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)
    assert err == ""
    assert {"name", "licence", "what", "sources", "row", "found"} <= rows[0].keys()
    assert all(row["found"] is None for row in rows)


def test_get_explains_and_does_not_claim_success(capsys):
    assert run("get", "physionet2012_icu") == 1
    out, err = capsys.readouterr()
    assert "https://physionet.org/content/challenge-2012/1.0.0" in out
    assert "smallhold/data/physionet2012_icu/*.jsonl" in out
    assert "not downloaded" in err


def test_get_of_what_is_here_prints_where(tmp_path, capsys):
    (tmp_path / "data" / "mtsamples").mkdir(parents=True)
    assert run("get", "mtsamples") == 0
    assert capsys.readouterr().out.strip() == "data/mtsamples"
    assert run("get", "mtsamples", as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["found"] == "data/mtsamples"


def test_get_of_an_unknown_name_lists_the_known_ones():
    with pytest.raises(DataError, match=r"unknown data set 'mtsample': expected one of .*mtsamples"):
        run("get", "mtsample")


def test_an_action_is_required(capsys):
    with pytest.raises(SystemExit) as caught:
        run()
    assert caught.value.code == 2
