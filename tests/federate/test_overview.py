"""A federation's folder as people see it."""

import json

import pytest

from smallhold.federate.engines.in_process import run_in_process
from smallhold.federate.job import PrivacyChoice
from smallhold.federate.overview import federation_overview
from smallhold.federate.round_budget import LEDGER
from smallhold.federate.server import JOURNAL


@pytest.fixture
def finished(make_federation):
    federation = make_federation(privacy=PrivacyChoice(clip_norm=0.5, noise_multiplier=5.0, epsilon=8.0), rounds=3)
    server = federation.server()
    run_in_process(server, federation.sites(), progress=lambda *_: None)
    server.close()
    return federation.folder


def test_rounds_and_privacy_are_told_as_they_stand_on_the_disk(finished):
    found = federation_overview(finished)
    assert found["problem"] is None and found["is_finished"] and found["job"] == "rule"
    assert [item["round"] for item in found["rounds"]] == [0, 1, 2]
    assert found["rounds"][0]["sites"] == ["east", "north", "south", "west"] and found["rounds"][0]["bytes"] > 0
    site = found["privacy"]["units"]["site"]
    assert site["epsilon"] == 8.0 and 0 < site["spent"] < 8.0 and found["privacy"]["releases"] == 3
    json.dumps(found, allow_nan=False)


def test_what_was_altered_is_said_and_nothing_is_raised(finished, tmp_path):
    ledger = finished / "server" / LEDGER
    ledger.write_bytes(ledger.read_bytes().replace(b'"epsilon"', b'"epsilom"', 1))
    assert federation_overview(finished)["privacy"]["problem"]
    journal = finished / "server" / JOURNAL
    journal.write_bytes(journal.read_bytes().replace(b"east", b"East", 1))
    assert "altered" in federation_overview(finished)["problem"]
    assert "cannot be read" in federation_overview(tmp_path / "nothing")["problem"]


def test_a_job_without_a_promise_says_so(federation):
    federation.server().close()
    found = federation_overview(federation.folder)
    assert found["privacy"] is None and found["rounds"] == [] and not found["is_finished"]
