"""`smallhold federate` as a user types it, on real rows, and killed while it works."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smallhold.cli.main import main

DATA = os.environ.get("SMALLHOLD_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="needs heart_disease_4_hospitals: set SMALLHOLD_DATA")


@needs_data
@pytest.mark.data
def test_a_job_runs_is_compared_with_each_site_alone_and_verifies(tmp_path, capsys):
    out = str(tmp_path / "job")
    assert main(["federate", "run", "heart-disease", "--out", out, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rounds"] == 20
    assert main(["federate", "run", "heart-disease", "--out", out, "--json"]) == 0  # nothing is left to do
    assert json.loads(capsys.readouterr().out) == found
    assert main(["federate", "compare", "heart-disease", "--run", out, "--split", "validation", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["site"] for row in rows] == ["cleveland", "hungarian", "switzerland", "va", "all"]
    assert rows[-1]["federated"]["value"] > 0.7 and {"local", "pooled", "trees", "personalised"} <= set(rows[-1])
    assert main(["federate", "verify", out]) == 0
    assert "80 updates" in capsys.readouterr().out
    model = Path(out) / "server" / "models" / "7.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    (Path(out) / "server" / "updates" / "3" / "va.safetensors").unlink()
    assert main(["federate", "verify", out]) == 1
    said = capsys.readouterr().out
    assert "7.safetensors: altered" in said and "va.safetensors: cannot be read" in said


@needs_data
@pytest.mark.data
def test_a_job_that_is_killed_again_and_again_ends_with_the_same_model(tmp_path, capsys):
    command = [sys.executable, "-m", "smallhold.cli.main", "federate", "run", "heart-disease", "--json", "--out"]
    assert main(["federate", "run", "heart-disease", "--out", str(tmp_path / "whole"), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    folder = tmp_path / "killed"
    journal = folder / "server" / "rounds.journal"
    for lines in (2, 9, 26, 60):  # killed when so much has happened
        process = subprocess.Popen([*command, str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not (journal.exists() and journal.read_bytes().count(b"\n") >= lines):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    assert main(["federate", "run", "heart-disease", "--out", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == whole["model"]
    assert main(["federate", "verify", str(folder)]) == 0
    entries = [json.loads(line) for line in journal.read_bytes().splitlines()]
    counted = [(e["body"]["round"], e["body"]["site"]) for e in entries if e["kind"] == "update"]
    assert len(counted) == len(set(counted)) == 80
    assert [e["body"]["round"] for e in entries if e["kind"] == "round_closed"] == list(range(20))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 'a'\ntask = 'b'\n", "key 'sites' is missing"),
        ("name = 'a'\ntask = 'b'\nsites = []\n", "at least one"),
        ("name = 'a'\ntask = 'b'\nsites = ['../x']\n", "lower-case"),
        ("name = 'a'\ntask = 'heart-disease'\nsites = ['x']\nquorum = 2\n", "quorum"),
        ("name = 'a'\ntask = 'b'\nsites = ['x']\n", "task 'b': expected one of"),
        ("name = 'a'\ntask = 'b'\nsites = ['x']\n[aggregation]\nmethod = 'median'\n", "aggregation.method"),
        ("name = 'a'\ntask = 'b'\nsites = ['x', 'y']\n[aggregation]\nmethod = 'krum'\nbyzantine = 1\n", "2 f \\+ 3"),
        ("name = 'a'\ntask = 'b'\nsites = ['x', 'y']\n[aggregation]\nmethod = 'trimmed_mean'\n", "cuts nobody off"),
        ("name = 'a'\ntask = 'b'\nsites = ['x']\n[local]\nlearning_rate = 0\n", "learning_rate"),
    ],
)
def test_a_job_that_cannot_be_carried_out_is_refused_before_anybody_is_asked(text, message, tmp_path, capsys):
    job = tmp_path / "job.toml"
    job.write_text(text)
    assert main(["federate", "run", str(job), "--out", str(tmp_path / "out")]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_there_is_not_begun_by_looking_at_it(tmp_path, capsys):
    folder = tmp_path / "typo"
    assert main(["federate", "compare", "heart-disease", "--run", str(folder)]) == 1
    assert f"was not begun in {folder}" in capsys.readouterr().err
    assert main(["federate", "verify", str(folder)]) == 1
    assert not folder.exists()


def test_names_of_jobs_that_there_are_not_are_answered_with_those_that_there_are(capsys):
    assert main(["federate", "run", "nothing"]) == 1
    assert (
        "expected a .toml file or one of assistant-intent, eicu-death, heart-disease, icu-calibration"
        in capsys.readouterr().err
    )
