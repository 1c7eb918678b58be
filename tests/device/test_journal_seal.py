import sqlite3
import threading
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.device.journal import Journal, NewEntry, read_entries
from smallhold.device.journal_seal import EPOCH_MS, Keyring, seal, sealed_nonce, sealing_key, unseal
from smallhold.device.journal_verify import ProblemKind, verify
from smallhold.errors import InputError, JournalError

OLD_TABLES = """
PRAGMA application_id = 0x534D484A; PRAGMA user_version = 1;
CREATE TABLE entries (
  seq INTEGER PRIMARY KEY, t_ms INTEGER NOT NULL, kind TEXT NOT NULL,
  payload_digest TEXT NOT NULL, prev TEXT NOT NULL, hash TEXT NOT NULL);
CREATE TABLE payloads (seq INTEGER PRIMARY KEY, nonce BLOB NOT NULL, payload BLOB NOT NULL);
CREATE TABLE checkpoints (
  seq INTEGER PRIMARY KEY, hash TEXT NOT NULL, t_ms INTEGER NOT NULL, key_id TEXT NOT NULL, signature TEXT NOT NULL);
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def bytes_on_disk(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(path.parent.iterdir()))


def change(path: Path, script: str) -> None:
    with sqlite3.connect(path) as database:
        database.executescript(script)
    database.close()


def test_a_patients_payload_is_never_on_the_disk_in_the_clear(path, key):
    with Journal.open(path, key=key) as journal:
        journal.append("step", b"heart rate of Anna: 118", patient="Anna")
        journal.append("note", b"nobody's")
        assert b"Anna" not in bytes_on_disk(path) and b"nobody's" in bytes_on_disk(path)
        assert journal.payload(0) == b"heart rate of Anna: 118"
        assert [payload for _, payload in journal.entries()] == [b"heart rate of Anna: 118", b"nobody's"]
    assert [payload for _, payload in read_entries(path, key=key)] == [b"heart rate of Anna: 118", b"nobody's"]
    with pytest.raises(JournalError, match="payload of entry 0 is sealed: it takes the key of the device"):
        list(read_entries(path))
    with pytest.raises(JournalError, match="another device's key"):
        list(read_entries(path, key=Ed25519PrivateKey.generate()))
    assert verify(path, key.public_key()).is_intact  # takes no secret


def test_forgetting_a_patient_leaves_the_chain_whole_and_the_others_readable(path, key):
    secret = b"the very private readings of one person " * 50
    with Journal.open(path, key=key) as journal:
        for number in range(30):
            journal.append("step", b"%d" % number + secret, patient=f"patient-{number % 3}")
        wrapped = [row[0] for row in journal._writer.connection.execute("SELECT wrapped FROM data_keys")]
        assert journal.sealed_for("patient-1") == 10
        before = bytes_on_disk(path)
        assert sum(item in before for item in wrapped) == 3
        erasure = journal.erase_patient("patient-1", "their wish")
        after = bytes_on_disk(path)
        assert sum(item in after for item in wrapped) == 2  # the log was emptied, too
        assert secret[:16] not in after and b"patient-1" not in after
        assert journal.payload(1) is None and journal.payload(2) == b"2" + secret
        assert journal.sealed_for("patient-1") == 0
        with pytest.raises(JournalError, match="nothing is sealed for this patient"):
            journal.erase_patient("patient-1", "again")
        # A patient who comes back gets another key.
        journal.append("step", b"new", patient="patient-1")
    report = verify(path, key.public_key())
    assert (report.is_intact, report.entries, report.erased) == (True, 32, 10)
    found = {entry.seq: payload for entry, payload in read_entries(path, key=key)}
    assert [seq for seq, payload in found.items() if payload is None] == list(range(1, 30, 3))
    assert found[31] == b"new" and b"patient-1" not in found[erasure.seq] and b"their wish" in found[erasure.seq]


def test_one_sealed_payload_can_be_erased_alone(path, key):
    with Journal.open(path, key=key) as journal:
        for text in (b"one", b"two"):
            journal.append("step", text, patient="p")
        journal.erase(0, "asked")
        assert [payload for _, payload in journal.entries()][:2] == [None, b"two"]
    assert verify(path, key.public_key()).erased == 1


def test_keys_are_of_one_patient_and_one_stretch_of_time(path, key):
    now = [0]
    with Journal.open(path, key=key, clock=lambda: now[0]) as journal:
        for t_ms in (0, EPOCH_MS - 1, EPOCH_MS, 5):
            now[0] = t_ms
            for patient in ("a", "b"):
                journal.append("step", b"x", patient=patient)
        assert journal._writer.connection.execute(
            "SELECT epoch, count(*) FROM data_keys GROUP BY epoch"
        ).fetchall() == [
            (0, 2),
            (1, 2),
        ]
    with Journal.open(path, key=key, clock=lambda: 9) as journal:
        journal.append("step", b"x", patient="a")  # the key is found again
        assert journal._writer.connection.execute("SELECT count(*) FROM data_keys").fetchone() == (4,)
        journal.erase_patient("a", "asked")
        assert [payload for _, payload in journal.entries(kind="step")] == [None, b"x"] * 4 + [None]


def test_without_a_key_payloads_are_in_the_clear(path):
    with Journal.open(path) as journal:
        journal.append("step", b"plain", patient="p")
        assert journal.sealed_for("p") == 0
        with pytest.raises(JournalError, match="nothing is sealed in a journal without a key"):
            journal.erase_patient("p", "asked")
    assert [payload for _, payload in read_entries(path)] == [b"plain"]


def test_swapped_or_moved_payloads_and_keys_are_found(path, key):
    with Journal.open(path, key=key) as journal:
        for number in range(4):
            journal.append("step", b"%d" % number, patient=f"p{number % 2}")
    original = path.read_bytes()
    swap = "UPDATE payloads SET seq = -1 WHERE seq = 0; UPDATE payloads SET seq = 0 WHERE seq = 2;"
    for script, kind in (
        (swap + "UPDATE payloads SET seq = 2 WHERE seq = -1;", ProblemKind.ALTERED_PAYLOAD),
        (
            "UPDATE payloads SET nonce = CAST(substr(nonce, 1, 16) || "
            "(SELECT substr(nonce, 17) FROM payloads WHERE seq = 1) AS BLOB) WHERE seq = 0",
            ProblemKind.ALTERED_PAYLOAD,
        ),
        ("DELETE FROM data_keys WHERE id IN (SELECT min(id) FROM data_keys)", ProblemKind.PAYLOAD_MISSING),
        (
            "UPDATE payloads SET payload = CAST(substr(nonce, 17) || payload AS BLOB), nonce = substr(nonce, 1, 16) "
            "WHERE seq = 0",
            ProblemKind.ALTERED_PAYLOAD,
        ),
        (
            "UPDATE payloads SET payload = substr(payload, 2), nonce = CAST(nonce || substr(payload, 1, 1) AS BLOB) "
            "WHERE seq = 0",
            ProblemKind.ALTERED_PAYLOAD,
        ),
    ):
        path.write_bytes(original)
        change(path, script)
        assert verify(path, key.public_key()).problem.kind is kind, script
    path.write_bytes(original)
    change(path, "UPDATE data_keys SET wrapped = (SELECT wrapped FROM data_keys ORDER BY id DESC LIMIT 1)")
    with pytest.raises(JournalError, match="cannot be unwrapped"):
        list(read_entries(path, key=key))


def test_a_key_that_comes_back_after_its_erasure_is_found(path, key):
    with Journal.open(path, key=key) as journal:
        journal.append("step", b"x", patient="p")
        saved = journal._writer.connection.execute("SELECT * FROM data_keys").fetchone()
        journal.erase_patient("p", "asked")
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO data_keys VALUES (?, ?, ?, ?)", saved)
    database.close()
    problem = verify(path, key.public_key()).problem
    assert (problem.kind, problem.seq) == (ProblemKind.PAYLOAD_RESTORED, 1)


def test_a_failed_write_leaves_no_key_behind(path, key):
    journal = Journal.open(path, key=key)
    blocker = sqlite3.connect(path, isolation_level=None)
    journal._writer.connection.execute("PRAGMA busy_timeout = 50")
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match="could not be written"):
        journal.append("step", b"x", patient="p")
    blocker.execute("ROLLBACK")
    blocker.close()
    journal.append("step", b"y", patient="p")
    assert journal.payload(0) == b"y"
    journal.close()
    assert verify(path, key.public_key()).is_intact


def test_a_journal_of_the_first_format_is_read_and_continued(path, key):
    with Journal.open(path, key=key) as journal:
        for number in range(3):
            journal.append("step", b"%d" % number)
    with sqlite3.connect(path) as database:
        rows = {name: database.execute(f"SELECT * FROM {name}").fetchall() for name in ("entries", "payloads")}
        signed = database.execute("SELECT * FROM checkpoints").fetchall()
    database.close()
    path.unlink()
    with sqlite3.connect(path) as database:
        database.executescript(OLD_TABLES)
        database.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", rows["entries"])
        database.executemany("INSERT INTO payloads VALUES (?, ?, ?)", rows["payloads"])
        database.executemany("INSERT INTO checkpoints VALUES (?, ?, ?, ?, ?)", signed)
    database.close()
    assert verify(path, key.public_key()).entries == 3
    assert [payload for _, payload in read_entries(path)] == [b"0", b"1", b"2"]
    with Journal.open(path, key=key) as journal:
        journal.append("step", b"3", patient="p")
        assert [payload for _, payload in journal.entries()] == [b"0", b"1", b"2", b"3"]
    assert verify(path, key.public_key()).is_intact


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 2**40), st.text(max_size=8), st.integers(0, 10**6))
def test_a_sealed_payload_opens_in_its_place_alone(payload, seq, patient, bit):
    keyring = Keyring(Ed25519PrivateKey.from_private_bytes(bytes(32)))
    row, cipher = keyring.make(patient, -3)
    nonce = sealed_nonce(row.id)
    assert sealing_key(nonce) == row.id and sealing_key(nonce[:16]) is None
    stored = seal(cipher, nonce, payload, seq=seq, kind="step")
    assert unseal(cipher, nonce, stored, seq=seq, kind="step") == payload
    assert len(keyring.unwrap(row)) == 32
    altered = bytearray(stored)
    altered[bit // 8 % len(stored)] ^= 1 << bit % 8
    for wrong in ((bytes(altered), seq, "step"), (stored, seq + 1, "step"), (stored, seq, "alarm")):
        with pytest.raises(JournalError, match="altered, moved"):
            unseal(cipher, nonce, wrong[0], seq=wrong[1], kind=wrong[2])


def test_several_entries_are_committed_as_one_or_not_at_all(path, key):
    with Journal.open(path, key=key, clock=lambda: 7) as journal:
        items = [NewEntry("step", b"%d" % n, patient=f"p{n % 3}") for n in range(200)]
        entries = journal.append_all(items)
        assert [entry.seq for entry in entries] == list(range(200))
        assert [payload for _, payload in journal.entries()] == [item.payload for item in items]
        with pytest.raises(InputError, match="'erasure' is reserved"):
            journal.append_all([NewEntry("step", b"x"), NewEntry("erasure", b"x")])
        with pytest.raises(InputError, match="kind: expected 1 to 64"):
            NewEntry("", b"x")
        assert journal.append_all([]) == [] and journal.append("step", b"x").seq == 200
        signed = [row[0] for row in journal._writer.connection.execute("SELECT seq FROM checkpoints")]
        assert signed == [0, 64, 128, 192]
    assert verify(path, key.public_key()).is_intact


def test_threads_that_need_the_disk_share_a_commit(path, key):
    with Journal.open(path, key=key) as journal:
        commits = []
        commit = journal._writer._commit

        def counted(writes, *, is_due):
            time.sleep(0.002)  # as a disk would take
            commits.append(is_due)
            commit(writes, is_due=is_due)

        journal._writer._commit = counted  # type: ignore[method-assign]
        found = []

        def work(name):
            found.extend(
                journal.append("order", b"%d" % number, patient=f"p{name}", must_checkpoint=True).seq
                for number in range(20)
            )

        threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert sorted(found) == list(range(160))
        assert len(commits) < 80 and all(commits)
        journal.append("step", b"and on")
    report = verify(path, key.public_key())
    assert (report.is_intact, report.entries) == (True, 161)


def test_what_came_after_a_kept_checkpoint_is_verified_alone(path, key):
    with Journal.open(path, key=key, clock=lambda: 7) as journal:
        for number in range(100):
            journal.append("step", b"%d" % number, patient="p")
        kept = journal.last_checkpoint()
        for number in range(100):
            journal.append("step", b"%d" % number, patient="p")
        journal.erase(3, "asked")
        journal.erase(150, "asked")
    whole, part = verify(path, key.public_key()), verify(path, key.public_key(), since=kept)
    assert kept.seq == 64 and part.is_intact and (part.entries, part.checkpoint) == (202, whole.checkpoint)
    change(path, "UPDATE entries SET kind = 'x' WHERE seq = 30")
    assert verify(path, key.public_key(), since=kept).is_intact  # verified before, not now
    change(path, "UPDATE entries SET kind = 'x' WHERE seq = 130")
    assert verify(path, key.public_key(), since=kept).problem.seq == 130
    change(path, "UPDATE entries SET kind = 'x' WHERE seq = 64")
    assert verify(path, key.public_key(), since=kept).problem.kind is ProblemKind.REWRITTEN
    change(path, "DELETE FROM entries WHERE seq >= 64")
    assert verify(path, key.public_key(), since=kept).problem.kind is ProblemKind.CUT_TAIL
    with pytest.raises(JournalError, match="to begin with is not signed"):
        verify(path, Ed25519PrivateKey.generate().public_key(), since=kept)
