import os
import random
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.device.journal import Checkpoint, Journal, read_entries
from smallhold.device.journal_chain import FIRST_PREV, payload_digest
from smallhold.device.journal_verify import verify
from smallhold.errors import InputError, JournalError
from smallhold.records import canonical_json, sha256_hex


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.db"


class Clock:
    def __init__(self):
        self.t_ms = 1_000_000

    def __call__(self):
        return self.t_ms


def test_entries_chain_as_documented(path):
    with Journal.open(path, clock=lambda: 5) as journal:
        first, second = journal.append("step", b"one"), journal.append("alert", b"two")
        assert list(journal.entries()) == [(first, b"one"), (second, b"two")]
    assert (first.seq, first.prev, second.seq, second.prev) == (0, FIRST_PREV, 1, first.hash)
    members = {"seq": 1, "t_ms": 5, "kind": "alert", "payload_digest": second.payload_digest, "prev": first.hash}
    assert second.hash == sha256_hex(canonical_json(members))
    ((nonce,),) = sqlite3.connect(path).execute("SELECT nonce FROM payloads WHERE seq = 1").fetchall()
    assert len(nonce) == 16
    assert payload_digest(nonce, b"two") == second.payload_digest == sha256_hex(nonce + b"two")


def test_equal_payloads_have_unlike_digests(path):
    with Journal.open(path) as journal:
        assert journal.append("step", b"yes").payload_digest != journal.append("step", b"yes").payload_digest


def test_reading_by_start_kind_and_number(path):
    with Journal.open(path) as journal:
        for number in range(6):
            journal.append("odd" if number % 2 else "even", b"%d" % number)
        assert [payload for _, payload in journal.entries(start=3)] == [b"3", b"4", b"5"]
        assert [payload for _, payload in journal.entries(kind="odd")] == [b"1", b"3", b"5"]
        assert [payload for _, payload in read_entries(path, start=2, kind="even")] == [b"2", b"4"]
        assert journal.payload(4) == b"4"
        with pytest.raises(JournalError, match="has no entry 6"):
            journal.payload(6)


def test_the_chain_goes_on_after_closing(path, key):
    with Journal.open(path, key=key) as journal:
        last = journal.append("step", b"1")
    with Journal.open(path, key=key) as journal:
        assert journal.append("step", b"2").prev == last.hash
    assert verify(path, key.public_key()).is_intact


def test_the_file_is_for_its_owner_alone(path):
    Journal.open(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def signed_seqs(path):
    return [seq for (seq,) in sqlite3.connect(path).execute("SELECT seq FROM checkpoints ORDER BY seq")]


def test_checkpoints_come_every_64_entries(path, key):
    with Journal.open(path, key=key, clock=lambda: 7) as journal:
        for _ in range(131):
            journal.append("step", b"")
        assert signed_seqs(path) == [0, 64, 128]
    assert signed_seqs(path) == [0, 64, 128, 130]  # closing signs the rest


def test_checkpoints_come_after_a_second_and_when_the_clock_goes_back(path, key):
    clock = Clock()
    with Journal.open(path, key=key, clock=clock) as journal:
        for t_ms in (0, 999, 1000, 1500, 2000, -5000, -4500):
            clock.t_ms = 1_000_000 + t_ms
            journal.append("step", b"")
        assert signed_seqs(path) == [0, 2, 4, 5]


def test_an_action_can_demand_a_checkpoint(path, key):
    with Journal.open(path, key=key, clock=lambda: 7) as journal:
        journal.append("step", b"")
        entry = journal.append("order", b"", must_checkpoint=True)
        checkpoint = journal.last_checkpoint()
    assert (checkpoint.seq, checkpoint.hash) == (entry.seq, entry.hash)
    assert Checkpoint.from_json(checkpoint.to_json()) == checkpoint


def test_without_a_key_no_checkpoint_can_be_demanded(path):
    with Journal.open(path) as journal:
        with pytest.raises(JournalError, match="opened without a key"):
            journal.append("order", b"", must_checkpoint=True)
        assert journal.append("step", b"").seq == 0
        assert journal.last_checkpoint() is None


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"schema":"smallhold.checkpoint/1","seq":1}', b"\xff"])
def test_what_is_not_a_checkpoint_is_refused(data):
    with pytest.raises(JournalError, match="not a journal checkpoint"):
        Checkpoint.from_json(data)


@pytest.mark.parametrize("kind", ["", "x" * 65, "a\nb", "a\x1b[2J"])
def test_a_malformed_kind_is_refused(path, kind):
    with Journal.open(path) as journal, pytest.raises(InputError, match="kind: expected 1 to 64"):
        journal.append(kind, b"")


def test_a_second_writer_is_refused_at_once(path):
    with Journal.open(path):
        started = time.monotonic()
        with pytest.raises(JournalError, match="has a writer already"):
            Journal.open(path)
        assert time.monotonic() - started < 20
    Journal.open(path).close()


def test_a_closed_journal_takes_nothing(path):
    journal = Journal.open(path)
    journal.close()
    journal.close()
    for use in (lambda: journal.append("step", b""), lambda: journal.payload(0), lambda: journal.erase(0, "")):
        with pytest.raises(JournalError, match="is closed"):
            use()


def test_threads_share_one_journal(path, key):
    with Journal.open(path, key=key) as journal:

        def work(name):
            for number in range(50):
                journal.append("step", b"%s %d" % (name, number))

        threads = [threading.Thread(target=work, args=(name,)) for name in (b"a", b"b", b"c", b"d")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    report = verify(path, key.public_key())
    assert report.is_intact
    assert report.entries == 200
    assert {payload for _, payload in read_entries(path)} == {
        b"%s %d" % (name, number) for name in (b"a", b"b", b"c", b"d") for number in range(50)
    }


def test_an_erased_payload_is_gone_and_the_chain_is_whole(path, key):
    secret = b"very private " * 1000  # several pages
    with Journal.open(path, key=key) as journal:
        journal.append("step", b"before")
        journal.append("step", secret)
        journal.append("step", b"after")
        ((nonce,),) = sqlite3.connect(path).execute("SELECT nonce FROM payloads WHERE seq = 1").fetchall()
        assert journal.erase(1, "the patient asked").kind == "erasure"
        assert journal.payload(1) is None
        for file in path.parent.iterdir():
            assert b"very private" not in file.read_bytes()
            assert nonce not in file.read_bytes()
    report = verify(path, key.public_key())
    assert (report.is_intact, report.entries, report.erased) == (True, 4, 1)
    assert next(iter(read_entries(path, start=3)))[1] == b'{"reason":"the patient asked","seq":1}'


def test_an_erasure_that_a_reader_holds_up_is_said_and_finished_later(path, key, monkeypatch):
    monkeypatch.setattr("smallhold.device.journal_store._BUSY_SECONDS", 0.1)
    journal = Journal.open(path, key=key)
    journal.append("step", b"very private")
    reader = read_entries(path)
    next(reader)
    with pytest.raises(JournalError, match="a reader keeps it alive"):
        journal.erase(0, "asked")
    reader.close()
    journal.close()
    Journal.open(path, key=key).close()
    assert all(b"very private" not in file.read_bytes() for file in path.parent.iterdir())
    assert verify(path, key.public_key()).is_intact


def test_what_cannot_be_erased_is_refused(path):
    with Journal.open(path) as journal:
        journal.append("step", b"")
        erasure = journal.erase(0, "asked")
        for seq in (0, 99, -1):
            with pytest.raises(JournalError, match="has no payload to erase"):
                journal.erase(seq, "again")
        with pytest.raises(JournalError, match="cannot be erased itself"):
            journal.erase(erasure.seq, "hide it")
        with pytest.raises(InputError, match="'erasure' is reserved"):
            journal.append("erasure", b"{}")


def test_a_full_disk_is_an_error_and_the_journal_recovers(path, key):
    journal = Journal.open(path, key=key)
    journal.append("step", b"kept")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = max(file.stat().st_size for file in path.parent.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100_000, hard))  # a real refusal by the kernel
    try:
        with pytest.raises(JournalError, match=r"journal\.db could not be written"):
            journal.append("step", bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert journal.append("step", b"and on").seq == 1
    journal.close()
    assert [payload for _, payload in read_entries(path)] == [b"kept", b"and on"]
    assert verify(path, key.public_key()).is_intact


def test_what_is_no_journal_is_refused(path, tmp_path):
    with pytest.raises(JournalError, match="could not be opened"):
        Journal.open(tmp_path / "absent" / "journal.db")
    with pytest.raises(JournalError, match="no journal at"):
        list(read_entries(path))
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    for attempt in (lambda: Journal.open(path), lambda: list(read_entries(path))):
        with pytest.raises(JournalError, match="file is not a database"):
            attempt()
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE entries (x)")
    for attempt in (lambda: Journal.open(path), lambda: list(read_entries(path))):
        with pytest.raises(JournalError, match="is not a journal of version 1"):
            attempt()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE entries SET kind = 'x' WHERE seq = 199", "entry 199 does not have the hash"),
        ("DELETE FROM entries WHERE seq = 198", "entry 199 does not follow entry 197"),
        ("DELETE FROM entries WHERE seq = 199", "cut or rewritten"),
        ("UPDATE checkpoints SET t_ms = 1 WHERE seq = 199", "is not signed by this device's key"),
        ("UPDATE entries SET seq = 'x' || seq WHERE 0; UPDATE entries SET t_ms = 'x' WHERE seq = 199", "the hash"),
    ],
)
def test_an_altered_tail_is_noticed_on_opening(journal_path, key, change, message):
    with sqlite3.connect(journal_path) as database:
        database.executescript(change)
    with pytest.raises(JournalError, match=message):
        Journal.open(journal_path, key=key)


def test_the_journal_of_another_device_is_not_continued(journal_path):
    with pytest.raises(JournalError, match="not signed by this device's key"):
        Journal.open(journal_path, key=Ed25519PrivateKey.generate())


_WRITE_FOREVER = """
import os, sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from smallhold.device.journal import Journal
journal = Journal.open(Path(sys.argv[1]), key=Ed25519PrivateKey.from_private_bytes(bytes(32)))
number = 0
while True:
    payload = b"%s %d" % (sys.argv[2].encode(), number)
    entry = journal.append("step", payload, must_checkpoint=number % 37 == 0)
    os.write(1, b"%d %s\\n" % (entry.seq, payload))
    number += 1
    if number % 101 == 0:
        journal.erase(entry.seq, "test")
        os.write(1, b"%d erased\\n" % entry.seq)
"""


def test_twenty_kills_lose_nothing_that_was_acknowledged(path, key):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    moments = random.Random(3)
    acknowledged = {}
    for run in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITE_FOREVER, str(path), f"run {run}"], stdout=subprocess.PIPE, env=environment
        )
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(moments.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        lines = (first + process.stdout.read()).split(b"\n")[:-1]  # a line cut by the kill was not acknowledged
        process.wait(timeout=10)
        assert lines
        for line in lines:
            seq, said = line.split(b" ", 1)
            acknowledged[int(seq)] = None if said == b"erased" else said
    report = verify(path, key.public_key())
    assert report.problem is None
    found = {entry.seq: payload for entry, payload in read_entries(path)}
    # A kill between an erasure and its acknowledgement leaves an entry erased that was last reported as written.
    assert all(found[seq] in (payload, None) for seq, payload in acknowledged.items())
    lost = [seq for seq, payload in acknowledged.items() if payload is not None and found[seq] is None]
    assert len(lost) <= 20
    assert len(acknowledged) > 100
