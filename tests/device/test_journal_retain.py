from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.assist.policy import load_profile
from smallhold.assist.retention import retain_days
from smallhold.device.journal import Journal
from smallhold.device.journal_seal import EPOCH_MS
from smallhold.device.journal_verify import verify
from smallhold.errors import PolicyError

BEGIN_MS = 1_700_000_000_000 // EPOCH_MS * EPOCH_MS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def write(path, key, times):
    now = [0]
    journal = Journal.open(path, key=key, clock=lambda: now[0])
    for number, t_ms in enumerate(times):
        now[0] = t_ms
        journal.append("step", b"%d" % number, patient=f"p{number % 2}")
    return journal, now


def left(journal) -> list[int]:
    return [int(payload) for entry, payload in journal.entries(kind="step") if payload is not None]


def test_what_is_older_goes_and_what_is_younger_stays(path, key) -> None:
    journal, now = write(path, key, [BEGIN_MS + day * 86_400_000 for day in range(100)])
    with journal:
        before = BEGIN_MS + 60 * 86_400_000
        told = journal.retain(before, "60 days", is_dry_run=True)
        assert (told.erased, told.keys, told.unsure) == (60, 0, 0) and len(left(journal)) == 100
        done = journal.retain(before, "60 days")
        assert (done.erased, done.keys, done.unsure) == (60, 4, 0)  # two patients, two stretches of 30 days
        assert left(journal) == list(range(60, 100))
        again = journal.retain(before, "60 days")
        assert (again.erased, again.keys) == (0, 0)
        now[0] += 1
        assert journal.payload(99) == b"99"
    report = verify(path, key.public_key())
    assert (report.is_intact, report.erased) == (True, 60)


def test_an_erased_entry_in_between_is_not_counted_twice(path, key) -> None:
    journal, _ = write(path, key, [BEGIN_MS + n for n in range(20)])
    with journal:
        journal.erase(7, "asked")
        assert journal.retain(BEGIN_MS + 15, "old").erased == 14
        assert left(journal) == list(range(15, 20))
    report = verify(path, key.public_key())
    assert (report.is_intact, report.erased) == (True, 15)


def test_a_clock_that_was_wrong_costs_no_younger_payload(path, key) -> None:
    times = [5, BEGIN_MS, BEGIN_MS + 10, BEGIN_MS + 1, BEGIN_MS + 11]
    journal, _ = write(path, key, times)
    with journal:
        done = journal.retain(BEGIN_MS + 5, "old")
        # The first says 1970: nobody had set the clock. The fourth stands after a younger one.
        assert (done.erased, done.unsure) == (1, 2) and left(journal) == [0, 2, 3, 4]


def test_kinds_that_must_stay_do(path, key) -> None:
    journal, _ = write(path, key, [BEGIN_MS + n for n in range(4)])
    with journal:
        journal.append("sync-have", b"{}")
        assert journal.retain(BEGIN_MS + 10**9, "old", kept_kinds=["sync-have"]).erased == 4
        assert journal.payload(4) == b"{}"


@settings(max_examples=30, deadline=None)
@given(times=st.lists(st.integers(0, 60), min_size=1, max_size=25), limit=st.integers(0, 70))
def test_nothing_younger_is_ever_erased(tmp_path_factory, times, limit) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    path = tmp_path_factory.mktemp("retain") / "journal.db"
    journal, _ = write(path, key, [BEGIN_MS + t * 86_400_000 for t in times])
    with journal:
        journal.retain(BEGIN_MS + limit * 86_400_000, "old")
        kept = left(journal)
    assert all(number in kept for number, t in enumerate(times) if t >= limit)
    prefix = next((number for number, t in enumerate(times) if t >= limit), len(times))
    assert kept == list(range(prefix, len(times)))
    assert verify(path, key.public_key()).is_intact


def test_a_profile_says_how_long() -> None:
    assert (retain_days(load_profile("eu")), retain_days(load_profile("us"))) == (184, 2192)
    with pytest.raises(PolicyError, match="base-clinical says nothing about retention"):
        retain_days(load_profile("base-clinical"))
