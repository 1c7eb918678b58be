import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.device.journal import Journal
from smallhold.device.journal_verify import ProblemKind, verify
from smallhold.device.journal_witness import Statement, make_offer, marks_of, witness
from smallhold.errors import InputError, JournalError
from smallhold.records import canonical_json

WITNESS = Ed25519PrivateKey.from_private_bytes(bytes([7] * 32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "witness"


def grow(path, key, count, text=b"entry"):
    with Journal.open(path, key=key, clock=lambda: 9) as journal:
        for number in range(count):
            journal.append("step", text + b" %d" % number, patient="p")


def state(path, folder, key, last=None, t_ms=1):
    return witness(make_offer(path, last), folder, WITNESS, t_ms=t_ms, device_key=key.public_key())


def test_a_witness_states_how_far_a_journal_grew(path, folder, key) -> None:
    grow(path, key, 70)
    first = state(path, folder, key)
    grow(path, key, 30)
    second = state(path, folder, key, first, t_ms=2)
    assert (first.seq, first.since, second.seq, second.since, second.t_ms) == (69, -1, 99, 69, 2)
    assert state(path, folder, key, first, t_ms=3) == second  # the same again, not a second statement
    assert b"entry" not in make_offer(path)
    marks = marks_of([first, second], [WITNESS.public_key()], key.public_key())
    report = verify(path, key.public_key(), marks=marks)
    assert report.is_intact and report.is_compared_outside
    assert Statement.from_json(second.to_json()) == second


def test_an_offer_that_goes_back_further_than_needed_is_fine(path, folder, key) -> None:
    grow(path, key, 20)
    state(path, folder, key)
    grow(path, key, 20)
    assert state(path, folder, key, None).seq == 39


def rewrite(path, key, keep):
    """What somebody with the device's key does: another history from an entry on, signed and all."""
    with sqlite3.connect(path) as database:
        for table in ("entries", "payloads", "checkpoints"):
            database.execute(f"DELETE FROM {table} WHERE seq >= ?", (keep,))
    database.close()
    grow(path, key, 60, b"another story")


def test_history_rewritten_with_the_devices_own_key_is_refused_as_a_fork(path, folder, key) -> None:
    grow(path, key, 70)
    first = state(path, folder, key)
    rewrite(path, key, 65)
    assert verify(path, key.public_key()).is_intact  # nobody inside can tell
    for last in (None, first):
        told = "FORK: the offered" if last is None else "it is another history, or the offer was damaged"
        with pytest.raises(JournalError, match=told):
            state(path, folder, key, last)
    (evidence,) = folder.glob("*-fork-124-*")
    assert json.loads(evidence.read_bytes())["checkpoint"]["seq"] == 124
    marks = marks_of([first], [WITNESS.public_key()], key.public_key())
    report = verify(path, key.public_key(), marks=marks)
    assert report.problem.kind is ProblemKind.REWRITTEN and "the statement of witness" in report.problem.message


def test_a_tail_cut_with_the_devices_own_key_is_found(path, folder, key) -> None:
    grow(path, key, 130)
    last = state(path, folder, key)
    with sqlite3.connect(path) as database:
        for table in ("entries", "payloads", "checkpoints"):
            database.execute(f"DELETE FROM {table} WHERE seq > 100")
    database.close()
    assert verify(path, key.public_key()).is_intact
    marks = marks_of([last], [WITNESS.public_key()], key.public_key())
    assert verify(path, key.public_key(), marks=marks).problem.kind is ProblemKind.CUT_TAIL
    with pytest.raises(JournalError, match="the offer ends at entry 64, but entry 129 was stated before"):
        state(path, folder, key)
    with pytest.raises(JournalError, match="no checkpoint at or after entry 129"):
        make_offer(path, last)


def test_the_same_entry_with_another_hash_is_a_fork(path, folder, key) -> None:
    grow(path, key, 70)
    state(path, folder, key)
    rewrite(path, key, 0)
    with sqlite3.connect(path) as database:
        for table in ("entries", "payloads", "checkpoints"):
            database.execute(f"DELETE FROM {table} WHERE seq > 69")
    database.close()
    grow(path, key, 10, b"another")
    with pytest.raises(JournalError, match="FORK"):
        state(path, folder, key)


def test_a_forged_or_malformed_offer_is_refused(path, folder, key) -> None:
    grow(path, key, 10)
    offer = json.loads(make_offer(path))
    with pytest.raises(InputError, match="is new to this witness"):
        witness(canonical_json(offer), folder, WITNESS, t_ms=1)
    with pytest.raises(JournalError, match="not signed by the device"):
        witness(canonical_json(offer), folder, WITNESS, t_ms=1, device_key=WITNESS.public_key())
    assert not folder.exists()
    for changes, message in (
        ({"schema": "x"}, "expected the schema"),
        ({"links": offer["links"][1:]}, "expected the links of entries 0 to 9, got 9"),
        ({"first": -1}, "expected the links"),
        ({"links": [["x", "y", "z"]] * 10}, "wrong type"),
        ({"checkpoint": {**offer["checkpoint"], "seq": "9"}}, "not an offer"),
    ):
        with pytest.raises(InputError, match=message):
            witness(canonical_json({**offer, **changes}), folder, WITNESS, t_ms=1, device_key=key.public_key())
    altered = {**offer, "links": [[offer["links"][0][0] + 1, *offer["links"][0][1:]], *offer["links"][1:]]}
    with pytest.raises(JournalError, match="or the offer was damaged on its way"):
        witness(canonical_json(altered), folder, WITNESS, t_ms=1, device_key=key.public_key())
    state(path, folder, key)
    grow(path, key, 10)
    late = json.loads(make_offer(path))
    late = {**late, "first": 15, "links": late["links"][15:]}
    with pytest.raises(InputError, match="begins with entry 15: expected one from entry 10"):
        witness(canonical_json(late), folder, WITNESS, t_ms=1)


def test_statements_that_prove_nothing_are_refused(path, folder, key) -> None:
    grow(path, key, 10)
    good = state(path, folder, key)
    stranger = Ed25519PrivateKey.generate()
    for statement, keys, device, message in (
        (replace(good, seq=8), [WITNESS], key, "not signed by the witness that it names"),
        (replace(good, signature="zz"), [WITNESS], key, "not signed by the witness"),
        (good, [stranger], key, "whose key was not given"),
        (good, [WITNESS], stranger, "about another device's journal"),
    ):
        with pytest.raises(JournalError, match=message):
            marks_of([statement], [item.public_key() for item in keys], device.public_key())
    for data in (b"", b"[]", b"{}", good.to_json().replace(b'"seq":9', b'"seq":"9"')):
        with pytest.raises(JournalError, match="not a witness's statement"):
            Statement.from_json(data)


def test_a_damaged_memory_stops_the_witness(path, folder, key) -> None:
    grow(path, key, 10)
    state(path, folder, key)
    (memory,) = folder.glob("*.json")
    memory.write_bytes(b"{}")
    with pytest.raises(JournalError, match=r"memory .* cannot be read"):
        state(path, folder, key)
