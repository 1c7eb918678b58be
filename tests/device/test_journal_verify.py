import json
import sqlite3

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.device.journal import Checkpoint, Journal
from smallhold.device.journal_chain import entry_hash
from smallhold.device.journal_verify import ProblemKind, export, verify, verify_export
from smallhold.errors import JournalError
from smallhold.records import canonical_json

SHIFT_UP = (
    "UPDATE {t} SET seq = -seq - 1 WHERE seq >= 100;"  # through negative numbers: seq is unique at every moment
    "UPDATE {t} SET seq = -seq WHERE seq < 0;"
)
SHIFT_DOWN = "UPDATE {t} SET seq = seq - 1 WHERE seq > 100;"


def in_all(script):
    return "".join(script.format(t=table) for table in ("entries", "payloads", "checkpoints"))


def tamper(path, script):
    with sqlite3.connect(path) as database:
        database.executescript(script)
    database.close()


def rehash(path, first, **changes):
    """Rewrite history as somebody without the key would: from `first` on, every hash is made to fit."""
    with sqlite3.connect(path) as database:
        rows = database.execute(
            "SELECT seq, t_ms, kind, payload_digest, prev FROM entries WHERE seq >= ? ORDER BY seq", (first,)
        ).fetchall()
        prev = rows[0][4]
        for seq, t_ms, kind, digest, _ in rows:
            members = {"seq": seq, "t_ms": t_ms, "kind": kind, "payload_digest": digest, "prev": prev}
            if seq == first:
                members.update(changes)
            own = entry_hash(**members)
            database.execute(
                "UPDATE entries SET t_ms = ?, kind = ?, prev = ?, hash = ? WHERE seq = ?",
                (members["t_ms"], members["kind"], prev, own, seq),
            )
            prev = own
    database.close()


def problem_of(path, key, outside=None):
    report = verify(path, key.public_key(), outside)
    assert not report.is_intact
    return report.problem.kind, report.problem.seq


@pytest.fixture
def outside(journal_path, key):
    with Journal.open(journal_path, key=key) as journal:
        return journal.last_checkpoint()


def test_an_untouched_journal_is_intact(journal_path, key, outside):
    report = verify(journal_path, key.public_key(), outside)
    assert (report.is_intact, report.entries, report.checkpoints, report.is_compared_outside) == (True, 200, 5, True)
    assert report.checkpoint == outside


def test_an_empty_journal_is_intact(tmp_path, key):
    Journal.open(tmp_path / "j.db", key=key).close()
    report = verify(tmp_path / "j.db", key.public_key())
    assert (report.is_intact, report.entries, report.checkpoint) == (True, 0, None)


def test_a_journal_can_be_verified_while_it_is_written(tmp_path, key):
    with Journal.open(tmp_path / "j.db", key=key) as journal:
        for number in range(70):
            journal.append("step", b"%d" % number)
            if number % 10 == 0:
                assert verify(tmp_path / "j.db", key.public_key()).entries == number + 1


@pytest.mark.parametrize("column", ["t_ms = t_ms + 1", "kind = 'other'", "payload_digest = hash", "prev = hash"])
@pytest.mark.parametrize("value_type", ["", "wrong"])
@pytest.mark.parametrize("seq", [0, 64, 100, 199])
def test_an_altered_column_is_located(journal_path, key, column, value_type, seq):
    change = column if not value_type else f"{column.split(' ')[0]} = x'00ff'"
    tamper(journal_path, f"UPDATE entries SET {change} WHERE seq = {seq}")
    assert problem_of(journal_path, key) == (ProblemKind.ALTERED_ENTRY, seq)


@pytest.mark.parametrize("seq", [0, 100, 199])
def test_an_altered_hash_is_located(journal_path, key, seq):
    tamper(journal_path, f"UPDATE entries SET hash = substr(hash, 1, 63) || 'x' WHERE seq = {seq}")
    assert problem_of(journal_path, key) == (ProblemKind.ALTERED_ENTRY, seq)


@pytest.mark.parametrize("seq", [1, 100, 130])
def test_an_entry_altered_together_with_its_hash_is_located(journal_path, key, seq):
    with sqlite3.connect(journal_path) as database:
        (t_ms, kind, digest, prev) = database.execute(
            "SELECT t_ms, kind, payload_digest, prev FROM entries WHERE seq = ?", (seq,)
        ).fetchone()
        own = entry_hash(seq=seq, t_ms=t_ms + 1, kind=kind, payload_digest=digest, prev=prev)
        database.execute("UPDATE entries SET t_ms = t_ms + 1, hash = ? WHERE seq = ?", (own, seq))
    assert problem_of(journal_path, key) == (ProblemKind.ALTERED_ENTRY, seq)


def test_history_rewritten_from_an_entry_on_meets_the_next_checkpoint(journal_path, key):
    rehash(journal_path, 100, kind="harmless")
    report = verify(journal_path, key.public_key())
    # Signed up to 64, and the checkpoint at 128 speaks of another entry.
    assert (report.problem.kind, report.problem.seq) == (ProblemKind.REWRITTEN, 65)
    assert "entry 128 is not the one that the checkpoint speaks of" in report.problem.message


def test_history_rewritten_without_checkpoints_is_unsigned(journal_path, key):
    rehash(journal_path, 100, kind="harmless")
    tamper(journal_path, "DELETE FROM checkpoints WHERE seq > 64")
    assert problem_of(journal_path, key) == (ProblemKind.CHECKPOINT_MISSING, 128)


@pytest.mark.parametrize("change", ["payload = 'text'", "payload = payload || x'00'", "nonce = x'00'", "nonce = 5"])
def test_an_altered_payload_is_located(journal_path, key, change):
    tamper(journal_path, f"UPDATE payloads SET {change} WHERE seq = 77")
    assert problem_of(journal_path, key) == (ProblemKind.ALTERED_PAYLOAD, 77)


def test_swapped_payloads_are_located(journal_path, key):
    tamper(
        journal_path,
        "UPDATE payloads SET seq = -1 WHERE seq = 50; UPDATE payloads SET seq = 50 WHERE seq = 60;"
        "UPDATE payloads SET seq = 60 WHERE seq = -1",
    )
    assert problem_of(journal_path, key) == (ProblemKind.ALTERED_PAYLOAD, 50)


@pytest.mark.parametrize("seq", [0, 64, 100])
def test_a_removed_entry_is_located(journal_path, key, seq):
    tamper(journal_path, f"DELETE FROM entries WHERE seq = {seq}")
    assert problem_of(journal_path, key) == (ProblemKind.REMOVED, seq)


def test_an_entry_removed_without_leaving_a_gap_is_located(journal_path, key):
    tamper(journal_path, in_all("DELETE FROM {t} WHERE seq = 100;" + SHIFT_DOWN))
    assert problem_of(journal_path, key) == (ProblemKind.REMOVED, 100)


def test_reordered_entries_are_located(journal_path, key):
    for other in (101, 150):
        swap = (
            "UPDATE {t} SET seq = -1 WHERE seq = 100; UPDATE {t} SET seq = 100 WHERE seq = OTHER;"
            "UPDATE {t} SET seq = OTHER WHERE seq = -1;"
        ).replace("OTHER", str(other))
        tamper(journal_path, in_all(swap))
        assert problem_of(journal_path, key) == (ProblemKind.REORDERED, 100)
        tamper(journal_path, in_all(swap))
    assert verify(journal_path, key.public_key()).is_intact


@pytest.mark.parametrize("is_own_hash_right", [True, False])
def test_an_inserted_entry_is_located(journal_path, key, is_own_hash_right):
    tamper(journal_path, in_all(SHIFT_UP))
    with sqlite3.connect(journal_path) as database:
        (prev,) = database.execute("SELECT hash FROM entries WHERE seq = 99").fetchone()
        own = entry_hash(seq=100, t_ms=1, kind="forged", payload_digest="0" * 64, prev=prev)
        if not is_own_hash_right:
            own = "0" * 64
        database.execute("INSERT INTO entries VALUES (100, 1, 'forged', ?, ?, ?)", ("0" * 64, prev, own))
        database.execute("INSERT INTO payloads SELECT 100, nonce, payload FROM payloads WHERE seq = 3")
    kind, seq = problem_of(journal_path, key)
    assert seq == 100
    # The forged digest shows first where it has a payload; its own hash, where that is wrong.
    assert kind in (ProblemKind.ALTERED_PAYLOAD, ProblemKind.ALTERED_ENTRY)


def test_a_copied_entry_is_an_inserted_one(journal_path, key):
    tamper(
        journal_path,
        in_all(SHIFT_UP)
        + "INSERT INTO entries SELECT 100, t_ms, kind, payload_digest, prev, hash FROM entries WHERE seq = 50;"
        "INSERT INTO payloads SELECT 100, nonce, payload FROM payloads WHERE seq = 50;",
    )
    assert problem_of(journal_path, key) == (ProblemKind.INSERTED, 100)


def test_an_inserted_entry_whose_payload_fits_is_located(journal_path, key):
    tamper(journal_path, in_all(SHIFT_UP))
    with sqlite3.connect(journal_path) as database:
        (prev,) = database.execute("SELECT hash FROM entries WHERE seq = 99").fetchone()
        (digest,) = database.execute("SELECT payload_digest FROM entries WHERE seq = 3").fetchone()
        own = entry_hash(seq=100, t_ms=1, kind="forged", payload_digest=digest, prev=prev)
        database.execute("INSERT INTO entries VALUES (100, 1, 'forged', ?, ?, ?)", (digest, prev, own))
        database.execute("INSERT INTO payloads SELECT 100, nonce, payload FROM payloads WHERE seq = 3")
    assert problem_of(journal_path, key) == (ProblemKind.INSERTED, 100)


def test_a_cut_tail_is_found_by_the_traces_it_left(journal_path, key):
    tamper(journal_path, "DELETE FROM entries WHERE seq >= 150")
    assert problem_of(journal_path, key) == (ProblemKind.CUT_TAIL, 150)
    tamper(journal_path, "DELETE FROM checkpoints WHERE seq >= 150")
    assert problem_of(journal_path, key) == (ProblemKind.CUT_TAIL, 150)


def test_a_tail_cut_without_traces_is_found_by_the_outside_checkpoint_alone(journal_path, key, outside):
    tamper(journal_path, in_all("DELETE FROM {t} WHERE seq >= 150;"))
    assert verify(journal_path, key.public_key()).is_intact  # what the threat model says
    assert problem_of(journal_path, key, outside) == (ProblemKind.CUT_TAIL, 150)


def test_a_tail_cut_and_grown_again_is_found_by_the_outside_checkpoint(journal_path, key, outside):
    tamper(journal_path, in_all("DELETE FROM {t} WHERE seq >= 150;"))
    with Journal.open(journal_path, key=key) as journal:
        for _ in range(100):
            journal.append("step", b"another story")
    assert verify(journal_path, key.public_key()).is_intact
    assert problem_of(journal_path, key, outside)[0] == ProblemKind.REWRITTEN


def test_an_outside_checkpoint_of_another_device_proves_nothing(journal_path, key, outside):
    stranger = Ed25519PrivateKey.generate()
    with pytest.raises(JournalError, match="outside checkpoint is not signed by this device's key"):
        verify(journal_path, stranger.public_key(), outside)
    forged = Checkpoint(seq=10, hash=outside.hash, t_ms=1, key_id=outside.key_id, signature=outside.signature)
    with pytest.raises(JournalError, match="proves nothing"):
        verify(journal_path, key.public_key(), forged)


@pytest.mark.parametrize(
    "change",
    [
        "t_ms = t_ms + 1",
        "key_id = '00'",
        "signature = 'zz'",
        "signature = upper(signature)",
        "signature = x'00'",
        "hash = 'x'",
        "hash = 5",
    ],
)
def test_an_altered_checkpoint_is_located(journal_path, key, change):
    tamper(journal_path, f"UPDATE checkpoints SET {change} WHERE seq = 64")
    assert problem_of(journal_path, key) == (ProblemKind.BAD_SIGNATURE, 64)


def test_a_journal_of_another_key_is_refused(journal_path):
    assert problem_of(journal_path, Ed25519PrivateKey.generate()) == (ProblemKind.BAD_SIGNATURE, 0)


def test_a_payload_deleted_without_an_erasure_is_located(journal_path, key):
    tamper(journal_path, "DELETE FROM payloads WHERE seq IN (20, 30)")
    assert problem_of(journal_path, key) == (ProblemKind.PAYLOAD_MISSING, 20)


def test_an_erased_payload_that_comes_back_is_located(journal_path, key):
    (saved,) = sqlite3.connect(journal_path).execute("SELECT * FROM payloads WHERE seq = 20").fetchall()
    with Journal.open(journal_path, key=key) as journal:
        journal.erase(20, "asked")
    assert verify(journal_path, key.public_key()).is_intact
    with sqlite3.connect(journal_path) as database:
        database.execute("INSERT INTO payloads VALUES (?, ?, ?)", saved)
    assert problem_of(journal_path, key) == (ProblemKind.PAYLOAD_RESTORED, 20)


def test_a_damaged_database_is_an_error_or_a_located_problem_and_never_a_traceback(journal_path, key):
    data = journal_path.read_bytes()
    found = set()
    for position in range(0, len(data), 419):
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        journal_path.write_bytes(damaged)
        for rest in ("-wal", "-shm"):
            journal_path.with_name(journal_path.name + rest).unlink(missing_ok=True)
        try:
            report = verify(journal_path, key.public_key())
        except JournalError as error:
            assert "journal.db" in str(error)
            found.add("error")
        else:
            found.add("located" if report.problem else "unused byte")
    assert found >= {"error", "located"}


@pytest.fixture
def exported(journal_path, key, tmp_path):
    with Journal.open(journal_path, key=key) as journal:
        journal.erase(20, "asked")
    assert export(journal_path, tmp_path / "out.jsonl") == 201
    return tmp_path / "out.jsonl"


def test_an_export_verifies_like_the_journal(journal_path, exported, key):
    report = verify_export(exported, key.public_key())
    assert report == verify(journal_path, key.public_key())
    assert (report.is_intact, report.erased) == (True, 1)


def test_any_flipped_byte_of_an_export_is_refused_or_located(exported, key):
    data = exported.read_bytes()
    for position in range(0, len(data), 661):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        exported.write_bytes(flipped)
        try:
            assert not verify_export(exported, key.public_key()).is_intact
        except JournalError as error:
            assert "line" in str(error) or "export" in str(error)


def test_lines_removed_swapped_or_cut_from_an_export_are_located(exported, key):
    head, *lines = exported.read_bytes().splitlines(keepends=True)

    def problem(changed):
        exported.write_bytes(b"".join([head, *changed]))
        found = verify_export(exported, key.public_key()).problem
        return found.kind, found.seq

    assert problem(lines[:100] + lines[101:]) == (ProblemKind.REMOVED, 100)
    assert problem([*lines[:100], lines[101], lines[100], *lines[102:]]) == (ProblemKind.REORDERED, 100)
    assert problem(lines[:100] + lines[99:]) == (ProblemKind.INSERTED, 100)
    assert problem(lines[:150]) == (ProblemKind.CUT_TAIL, 150)
    with pytest.raises(JournalError, match="line 203: the export says it has 201 entries"):
        problem([*lines, lines[-1]])


def test_an_export_with_strange_members_is_refused(exported, key):
    head, first, *lines = exported.read_bytes().splitlines(keepends=True)
    for change in ({"more": 1}, {"nonce": "00 "}, {"payload": "Zh=="}, {"entry": {"seq": 0}}, {"entry": []}):
        value = {**json.loads(first), **change}
        exported.write_bytes(b"".join([head, canonical_json(value) + b"\n", *lines]))
        with pytest.raises(JournalError, match="line 2"):
            verify_export(exported, key.public_key())
    with pytest.raises(JournalError, match="cannot be read"):
        verify_export(exported.with_name("absent"), key.public_key())


def test_a_journal_with_payloads_of_another_type_is_not_exported(journal_path, tmp_path):
    tamper(journal_path, "UPDATE payloads SET payload = 'text' WHERE seq = 7")
    with pytest.raises(JournalError, match="payload of entry 7 was altered"):
        export(journal_path, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    with pytest.raises(JournalError, match="could not be written"):
        export(journal_path, tmp_path / "absent" / "out.jsonl")
