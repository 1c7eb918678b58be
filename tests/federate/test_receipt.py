"""Receipts: what a model came from, signed, and found out when anything of it is changed."""

import base64
import json

import pytest
from tests.federate.conftest import Federation

from smallhold.device.trust import generate_private_key, load_public_key
from smallhold.errors import UpdateRefused
from smallhold.federate.engines.in_process import run_in_process
from smallhold.federate.job import PrivacyChoice
from smallhold.federate.receipt import read_receipt
from smallhold.federate.verify import verify_run
from smallhold.records import sha256_hex


def carried_out(tmp_path, **settings):
    federation = Federation(tmp_path, rounds=3, **settings)
    server, sites = federation.server(), federation.sites()
    sites["north"].consent.withdraw(federation.rows["north"].group[0])
    run_in_process(server, sites, progress=lambda *_: None)
    server.close()
    return federation, tmp_path / "server"


def test_every_model_has_a_receipt_that_says_how_it_came_about(tmp_path):
    federation, folder = carried_out(tmp_path)
    key = load_public_key(folder / "receipt.pem")
    assert verify_run(folder, key)["problems"] == []
    before = ""
    for number in range(3):
        data = (folder / f"receipts/{number}.dsse.json").read_bytes()
        receipt = read_receipt(data, key, name="receipt")
        assert receipt["job"]["digest"] == federation.job.digest and receipt["job"]["rounds"] == 3
        assert [update["site"] for update in receipt["updates"]] == ["east", "north", "south", "west"]
        assert {update["site"]: update["withdrawn"] for update in receipt["updates"]}["north"] == 1
        assert receipt["previous"] == before
        assert receipt["privacy"] == {}
        before = sha256_hex(data)


def test_a_receipt_that_was_lost_in_a_crash_is_written_again(tmp_path):
    federation, folder = carried_out(tmp_path)
    last = folder / "receipts/2.dsse.json"
    was = json.loads(base64.b64decode(json.loads(last.read_bytes())["payload"]))
    last.unlink()
    assert any("2.dsse.json" in problem for problem in verify_run(folder)["problems"])
    federation.server().close()
    again = json.loads(base64.b64decode(json.loads(last.read_bytes())["payload"]))
    assert again == was
    assert verify_run(folder)["problems"] == []


def test_another_key_another_word_and_another_order_are_found(tmp_path):
    _, folder = carried_out(tmp_path)
    stranger = generate_private_key().public_key()
    assert len(verify_run(folder, stranger)["problems"]) == 3
    first, second = folder / "receipts/0.dsse.json", folder / "receipts/1.dsse.json"
    whole = first.read_bytes()
    first.write_bytes(whole.replace(b'"sig"', b'"sog"'))
    assert any("0.dsse.json" in problem for problem in verify_run(folder)["problems"])
    first.write_bytes(second.read_bytes())
    problems = verify_run(folder)["problems"]
    assert any("says otherwise than the journal: round, model, file" in problem for problem in problems)


def test_a_job_with_noise_says_what_is_spent_and_one_who_lied_is_named(tmp_path):
    pytest.importorskip("dp_accounting", reason="budgets need the extra 'dp'")
    federation = Federation(tmp_path, rounds=2, privacy=PrivacyChoice(clip_norm=0.5, noise_multiplier=4.0, epsilon=8.0))
    server, sites = federation.server(), federation.sites()
    with pytest.raises(UpdateRefused):
        server.receive(b"nonsense", sender="east")
    run_in_process(server, sites, progress=lambda *_: None)
    server.close()
    key = load_public_key(tmp_path / "server/receipt.pem")
    receipts = [read_receipt((tmp_path / f"server/receipts/{n}.dsse.json").read_bytes(), key, name="r") for n in (0, 1)]
    spent = [receipt["privacy"]["site"]["epsilon"] for receipt in receipts]
    assert 0 < spent[0] < spent[1] <= 8.0
    assert receipts[0]["refused"] == [{"site": "east", "reason": "malformed"}]
