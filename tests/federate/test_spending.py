"""`smallhold privacy ledger`: what was spent, of what is on the disk and nothing else; a forged ledger is refused."""

import json
import shutil

import pytest
from tests.federate.conftest import SITES, Federation

from smallhold.cli.main import main
from smallhold.device.trust import generate_private_key, load_private_key, save_private_key, save_public_key
from smallhold.errors import InputError, LedgerError
from smallhold.federate.engines.in_process import run_in_process
from smallhold.federate.job import LocalChoice, PrivacyChoice, RecordPrivacyChoice
from smallhold.federate.spending import find_ledgers, parse_head, read_spending
from smallhold.privacy.accountant import Charge, compose_epsilon
from smallhold.privacy.ledger import Budget
from smallhold.privacy.ledger_file import Ledger

pytest.importorskip("dp_accounting", reason="budgets need the extra 'dp'")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A job that promises something to sites and to records, three rounds of it."""
    federation = Federation(
        tmp_path_factory.mktemp("run"),
        rounds=3,
        local=LocalChoice(batch_size=16),
        privacy=PrivacyChoice(clip_norm=0.5, noise_multiplier=4.0, epsilon=8.0),
        record_privacy=RecordPrivacyChoice(clip_norm=1.0, noise_multiplier=2.0, epsilon=8.0),
    )
    server = federation.server()
    run_in_process(server, federation.sites(), progress=lambda *_: None)
    server.close()
    return federation


def test_every_ledger_of_a_run_is_told_round_by_round(run, tmp_path, capsys):
    assert main(["privacy", "ledger", str(run.folder), "--json", "--plot", str(tmp_path / "spent.svg")]) == 0
    told = json.loads(capsys.readouterr().out)["ledgers"]
    assert [set(ledger["budgets"]) for ledger in told] == [{"site"}] + [{"record"}] * len(SITES)
    for ledger in told:
        assert [release["round"] for release in ledger["releases"]] == [0, 1, 2]
        assert {release["job"] for release in ledger["releases"]} == {run.job.digest}
        (unit, budget), *_ = ledger["budgets"].items()
        charges = [Charge(**release["charges"][unit]) for release in ledger["releases"]]
        assert budget["spent"] == pytest.approx(compose_epsilon(charges, delta=1e-5))
    assert (tmp_path / "spent.svg").read_bytes().startswith(b"<?xml")
    assert main(["privacy", "ledger", str(run.folder / "server")]) == 0
    words = capsys.readouterr().out
    assert "of 8 spent, at delta 1e-05" in words and words.count(" site ") == 3


def test_a_changed_cut_or_replaced_ledger_is_refused(run, tmp_path, capsys):
    path, whole = tmp_path / "privacy.ledger", (run.folder / "server" / "privacy.ledger").read_bytes()
    key = load_private_key(run.folder / "server" / "ledger.key")
    save_public_key(key.public_key(), tmp_path / "ledger.pem")
    given = ["privacy", "ledger", str(path), "--key", str(tmp_path / "ledger.pem")]
    path.write_bytes(whole)
    head = read_spending(path, key.public_key())["head"]
    assert main([*given, "--head", f"{head['seq']}:{head['hash']}"]) == 0
    path.write_bytes(whole.replace(b'"epsilon":8.0', b'"epsilon":9.0'))
    assert main(given) == 1
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    assert main(given) == 0  # nothing inside can tell
    assert main([*given, "--head", f"{head['seq']}:{head['hash']}"]) == 1
    path.unlink()
    other = generate_private_key()
    save_private_key(other, tmp_path / "ledger.key")
    with Ledger(path, key=other, budgets={"site": Budget(8.0, 1e-5)}):
        pass
    assert main(["privacy", "ledger", str(path)]) == 0  # by the key beside it
    assert main(given) == 1
    errors = capsys.readouterr().err
    assert "line 1 is altered" in errors and "no longer holds line 4" in errors and "another key" in errors


def test_a_server_that_cuts_its_ledger_is_found_by_its_receipts(run, tmp_path):
    server = tmp_path / "server"
    shutil.copytree(run.folder / "server", server)
    assert len(read_spending(server / "privacy.ledger")["releases"]) == 3
    lines = (server / "privacy.ledger").read_bytes().splitlines(keepends=True)
    (server / "privacy.ledger").write_bytes(b"".join(lines[:-1]))
    with pytest.raises(LedgerError, match="no longer holds line 4"):
        read_spending(server / "privacy.ledger")


def test_a_keeper_that_signs_a_wrong_sum_is_found(tmp_path, monkeypatch):
    key = generate_private_key()
    with Ledger(tmp_path / "privacy.ledger", key=key, budgets={"site": Budget(8.0, 1e-5)}) as ledger:
        monkeypatch.setattr("smallhold.privacy.ledger.compose_epsilon", lambda charges, delta: 0.01)
        ledger.spend("job/0/0", {"site": Charge(noise_multiplier=4.0)})
        monkeypatch.undo()
    with pytest.raises(LedgerError, match=r"it says 0.01 for site, its charges cost"):
        read_spending(tmp_path / "privacy.ledger", key.public_key())


def test_bad_input_is_refused(run, tmp_path, capsys):
    with pytest.raises(InputError, match=r"no privacy.ledger here, in server/ or in sites/\*/"):
        find_ledgers(tmp_path)
    with pytest.raises(InputError, match="expected SEQ:HASH"):
        parse_head("three")
    assert main(["privacy", "ledger", str(run.folder), "--head", "1:" + "0" * 64]) == 1
    assert "belong to one ledger" in capsys.readouterr().err
