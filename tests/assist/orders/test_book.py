"""The order book as a person would attack it: expired, revoked, replayed, too much, stopped, and with the power cut."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smallhold.assist.orders import (
    OrderBook,
    Reading,
    load_interactions,
    put_revocation,
    resume,
    sign_revocation,
    stop,
)
from smallhold.device.journal import Journal
from smallhold.device.journal_store import read_entries
from smallhold.device.journal_verify import verify
from smallhold.errors import JournalError, OrderError, OrderRefused
from smallhold.records import ActionClass, Effect

from . import order_ward
from .order_ward import DOCTORS, HOUR, MINUTE, ORDER, START, STRANGER, UNIT, Ward, make_home, put, request, verdict


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    home = make_home(tmp_path)
    put(home)
    made = Ward(home)
    yield made
    made.journal.close()


def refuses(ward: Ward, reason: str, number: int = 0, /, **changes: Any) -> None:
    before = list(ward.pump)
    with pytest.raises(OrderRefused, match=reason):
        ward.give(number, **changes)
    assert ward.pump == before


def test_a_dose_is_written_down_and_then_released(ward: Ward) -> None:
    assert ward.ask().state == "valid"
    order = ward.give()
    assert (
        ward.pump == [(START, UNIT)] and order.standing_order == ORDER.digest and order.limits["dose_max"] == 2 * UNIT
    )
    ((entry, payload),) = list(ward.journal.entries(kind="dose"))
    said = json.loads(payload or b"")
    assert (said["id"], said["dose"], said["unit"], said["effect"]) == ("dose-0", UNIT, "U", "auto")
    checkpoint = ward.journal.last_checkpoint()
    assert checkpoint is not None and checkpoint.seq == entry.seq  # signed and on the disk
    assert verify(ward.home.journal, ward.home.device_key().public_key(), None).is_intact


def test_the_state_is_the_fact_that_the_policy_asks_for(ward: Ward) -> None:
    assert (ward.ask().state, ward.ask(drug="heparin").state) == ("valid", "none")
    ward.now_ms = ORDER.expires_ms
    assert ward.ask().state == "expired"
    refuses(ward, "has expired")


def test_before_it_begins_an_order_is_none(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    put(home, replace(ORDER, not_before_ms=START + HOUR))
    ward = Ward(home)
    assert ward.ask().state == "none"
    refuses(ward, "is not valid yet")
    ward.journal.close()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"patient": "p-18"}, "no signed order covers this drug for this patient"),
        ({"drug": "heparin"}, "no signed order covers"),
        ({"unit": "mL"}, "is in U, the dose in 'mL'; nothing is converted"),
        ({"dose": 2 * UNIT + 1}, "above dose_max 2 U"),
        ({"dose": 0}, "a dose of 0 U is none"),
        ({"allergies": None}, "the patient's allergies are not known"),
        ({"drugs": None}, "the patient's drugs are not known"),
        ({"allergies": frozenset({"Protamine "})}, "the order forbids it with allergy protamine"),
        ({"drugs": frozenset({"glucagon"})}, "the order forbids it with drug glucagon"),
        ({"allergies": frozenset({"insulin"})}, "allergy insulin"),
        ({"drugs": frozenset({"mystery"})}, "unlisted mystery: the table does not list it"),
        ({"readings": {}}, "no reading of Glucose in mg/dL"),
        ({"readings": {"Glucose": Reading(180.0, "mmol/L", START)}}, "no reading of Glucose in mg/dL"),
        ({"readings": {"Glucose": Reading(109.9, "mg/dL", START)}}, "Glucose is outside its bounds"),
        ({"readings": {"Glucose": Reading(float("nan"), "mg/dL", START)}}, "outside its bounds"),
        ({"readings": {"Glucose": Reading(180.0, "mg/dL", START - 10 * MINUTE - 1)}}, "older than 600 s"),
        ({"readings": {"Glucose": Reading(180.0, "mg/dL", START + 1)}}, "or from the future"),
    ],
)
def test_what_the_order_does_not_cover_is_refused(ward: Ward, changes: dict[str, Any], reason: str) -> None:
    assert ward.ask(**changes).state == "none"
    refuses(ward, reason, **changes)
    assert list(ward.journal.entries(kind="dose")) == []


@pytest.mark.parametrize("dose", [1.5, True, -1, 2**63, "1", None])
def test_an_amount_that_is_no_amount_is_an_error(ward: Ward, dose: Any) -> None:
    with pytest.raises(OrderError, match="dose: expected"):
        ward.ask(dose=dose)


def test_a_dose_is_never_given_twice(ward: Ward) -> None:
    ward.give(1)
    ward.now_ms += HOUR
    refuses(ward, "its id was used already", 1)
    ward.reopen()
    refuses(ward, "its id was used already", 1)
    ward.give(2)
    assert len(ward.pump) == 2


def test_bounds_hold_across_a_restart(ward: Ward) -> None:
    for number in range(5):
        ward.give(number)
        ward.now_ms += 6 * MINUTE
        ward.reopen()
    refuses(ward, "would be above rate_max 5 U", 9)
    ward.now_ms += HOUR
    ward.give(10)


def test_two_books_on_one_journal_share_the_bound(ward: Ward) -> None:
    other = OrderBook(ward.home, ward.journal, load_interactions(), monotonic=None)
    ward.give(1)
    ward.now_ms += MINUTE
    with pytest.raises(OrderRefused, match="interval 300 s"):
        other.administer(request(2, now_ms=ward.now_ms), ward.now_ms, verdict(), lambda _: None)


def test_threads_cannot_spend_a_bound_twice(ward: Ward) -> None:
    refused: list[str] = []

    def give(number: int) -> None:
        try:
            ward.give(number)
        except OrderRefused as error:
            refused.append(str(error))

    threads = [threading.Thread(target=give, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(ward.pump) == 1 and len(refused) == 7


def test_a_revocation_holds_at_once_and_needs_no_restart(ward: Ward) -> None:
    ward.give(1)
    ward.now_ms += HOUR
    put_revocation(ward.home.orders, ORDER.digest, sign_revocation(ORDER.digest, "renal failure", START, DOCTORS[1]))
    refuses(ward, "was revoked: renal failure", 2)
    assert ward.ask(2).state == "none"


def test_a_revocation_that_cannot_be_believed_stops_every_order(ward: Ward) -> None:
    put_revocation(ward.home.orders, "0" * 64, sign_revocation("0" * 64, "why", START, STRANGER))
    refuses(ward, "a revocation cannot be believed, and may be for any order")
    (ward.home.orders / "revoked" / ("0" * 64 + ".json")).write_bytes(b"\0garbage")
    refuses(ward, "a revocation cannot be believed")
    shutil.rmtree(ward.home.orders / "revoked")
    ward.give(1)
    (ward.home.orders / "revoked").touch()  # no folder, so that nobody can tell what was revoked
    ward.now_ms += HOUR
    refuses(ward, "revoked/ cannot be read: Not a directory", 2)


def test_an_order_by_a_stranger_or_altered_on_the_disk_is_none(ward: Ward) -> None:
    (path,) = ward.home.orders.glob("*.json")
    good = path.read_bytes()
    path.write_bytes(good.replace(b"sig", b"sic"))
    refuses(ward, "no signed order covers")
    path.write_bytes(good)
    for key in (ward.home.orders / "trust").glob("*.pem"):
        key.unlink()
    refuses(ward, "no signed order covers")


def test_the_site_may_want_two_signatures(ward: Ward) -> None:
    book = OrderBook(ward.home, ward.journal, load_interactions(), minimum_signatures=2, monotonic=None)
    assert book.check(request(), START).state == "none"
    put(ward.home, ORDER, DOCTORS)
    assert book.check(request(), START).state == "valid"


def test_an_order_for_a_ward_covers_its_patients_and_counts_each_by_themselves(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    put(home, replace(ORDER, patient=None, ward="3-north"))
    ward = Ward(home)
    ward.give(1, patient="a")
    ward.give(1, patient="b")
    refuses(ward, "interval", 2, patient="a")
    refuses(ward, "no signed order covers", 3, patient="c", ward="4-south")
    ward.journal.close()


@pytest.mark.parametrize(
    ("effect", "people", "is_given"),
    [
        (Effect.AUTO, (), True),
        (Effect.NOTIFY_WITH_VETO, (), False),
        (Effect.CONFIRM_ONE, (), False),
        (Effect.CONFIRM_ONE, ("  ",), False),
        (Effect.CONFIRM_ONE, ("Dr A",), True),
        (Effect.CONFIRM_TWO, ("Dr A", "dr  a"), False),
        (Effect.CONFIRM_TWO, ("Dr A", "Nurse B"), True),
        (Effect.FORBID, ("Dr A", "Nurse B"), False),
    ],
)
def test_the_policy_has_its_say(ward: Ward, effect: Effect, people: tuple[str, ...], is_given: bool) -> None:
    if is_given:
        ward.give(says=verdict(effect), people=people)
        ((_, payload),) = list(ward.journal.entries(kind="dose"))
        assert json.loads(payload or b"")["confirmed_by"] == list(people)
    else:
        refuses(ward, "the policy", says=verdict(effect), people=people)


def test_a_verdict_on_another_action_allows_nothing(ward: Ward) -> None:
    refuses(ward, "expected A4 and not forbid, got A3 auto", says=verdict(Effect.AUTO, ActionClass.A3))


def test_a_clock_that_goes_back_locks_the_book_until_it_is_right_again(ward: Ward) -> None:
    ward.give(1)
    ward.now_ms -= 1
    refuses(ward, "the clock went back 1 ms", 2)
    ward.now_ms = START + HOUR
    ward.give(2)
    ward.reopen()  # the ledger remembers the latest dose
    ward.now_ms = START + MINUTE
    refuses(ward, "the clock went back", 3)


def test_a_clock_that_jumps_locks_the_book(ward: Ward) -> None:
    ticks = 100.0
    book = OrderBook(ward.home, ward.journal, load_interactions(), monotonic=lambda: ticks)
    assert book.check(request(), START).state == "valid"
    ticks += 60.0
    now_ms = START + 60_000
    assert book.check(request(now_ms=now_ms), now_ms).state == "valid"
    ticks += 1.0
    now_ms += 2 * HOUR
    assert "the clock jumped by 7199 s" in book.check(request(now_ms=now_ms), now_ms).reason
    ticks += 1.0
    now_ms += 1000
    assert "the clock jumped" in book.check(request(now_ms=now_ms), now_ms).reason  # until it is opened again


def test_without_a_journal_nothing_is_given(ward: Ward) -> None:
    ward.journal.close()
    refuses(ward, "the journal failed: .* is closed")


def test_without_a_journal_that_signs_nothing_is_given(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    put(home)
    with Journal.open(home.journal) as journal:
        book = OrderBook(home, journal, load_interactions(), monotonic=None)
        with pytest.raises(OrderRefused, match="the journal failed: a signed checkpoint is needed"):
            book.administer(request(), START, verdict(), lambda _: pytest.fail("released"))


def test_a_full_disk_gives_nothing(ward: Ward) -> None:
    """The journal's own limit of pages is a real refusal by SQLite, as on a disk that is full."""
    ward.give(1)
    (pages,) = ward.journal._writer.connection.execute("PRAGMA page_count").fetchone()
    ward.journal._writer.connection.execute(f"PRAGMA max_page_count = {pages}")
    for size in (2000, 1):  # until not even a small entry fits
        with pytest.raises(JournalError, match="full"):
            for _ in range(500):
                ward.journal.append("note", b"x" * size)
    ward.now_ms += HOUR
    refuses(ward, "the journal failed: .*full", 300)
    assert len(ward.pump) == 1
    ward.journal._writer.connection.execute("PRAGMA max_page_count = 1000000")
    ward.give(301)


def test_an_erased_dose_blocks_what_would_need_its_sum(ward: Ward) -> None:
    ward.give(1)
    ((entry, _),) = list(ward.journal.entries(kind="dose"))
    ward.now_ms += HOUR
    ward.journal.erase(entry.seq, "request of the person")
    ward.reopen()
    refuses(ward, "was erased from the journal, so that sums cannot be formed", 2)
    put(ward.home, replace(ORDER, not_before_ms=START + 3 * HOUR))
    ward.now_ms = START + 4 * HOUR
    ward.give(3)  # an order that begins later needs no sum of before


def test_an_entry_that_is_no_dose_is_no_ledger(ward: Ward) -> None:
    ward.journal.append("dose", b'{"schema":"smallhold.dose/1","dose":1.5}')
    assert "is not a dose as this software writes it" in ward.ask().reason
    with pytest.raises(JournalError, match="is not a dose"):
        ward.reopen()


def test_a_stop_holds_before_and_in_the_last_moment(ward: Ward) -> None:
    stop(ward.home.path)
    refuses(ward, "stopped")
    assert resume(ward.home.path)
    append = ward.journal.append

    def stop_meanwhile(*args: Any, **options: Any) -> Any:
        entry = append(*args, **options)
        if args[0] == "dose":
            (ward.home.path / "STOP").touch()  # any other process, with nothing but a file
        return entry

    ward.journal.append = stop_meanwhile  # type: ignore[method-assign]
    refuses(ward, "stopped; it counts as given", 1)
    assert [entry.kind for entry, _ in ward.journal.entries()] == ["dose", "dose-withheld"]


def test_a_pump_that_fails_is_told_and_the_dose_counts(ward: Ward) -> None:
    def fail(_: Any) -> None:
        raise TimeoutError("no answer")

    with pytest.raises(OrderRefused, match="release failed: no answer; it counts as given"):
        ward.book.administer(request(1), START, verdict(), fail)
    refuses(ward, "its id was used already", 1)
    assert [entry.kind for entry, _ in ward.journal.entries()] == ["dose", "dose-withheld"]


def test_killed_at_any_moment_no_dose_is_released_that_is_not_written_down(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    put(home, replace(ORDER, interval_ms=1000, rate_max=200 * UNIT, total_max=200 * UNIT, count_max=200))
    pump = tmp_path / "pump"
    generator = random.Random(3)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, str(order_ward.__file__), str(home.path), str(pump)],
            env=environment,
            stdout=subprocess.PIPE,
        )
        wanted = len(pump.read_text().splitlines()) if pump.exists() else 0
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and child.poll() is None:
            if pump.exists() and len(pump.read_text().splitlines()) > wanted:
                break
            time.sleep(0.005)
        time.sleep(generator.random() * 0.02)
        child.kill()
        child.communicate(timeout=30)
    released = pump.read_text().splitlines()
    ledger = [
        json.loads(payload or b"") for _, payload in read_entries(home.journal, kind="dose", key=home.device_key())
    ]
    assert 2 <= len(released) <= len(ledger)
    written = [f"{dose['t_ms']} {dose['dose']}" for dose in ledger]
    assert set(released) <= set(written) and len(set(released)) == len(released)
    assert len({dose["id"] for dose in ledger}) == len(ledger) <= 200
    assert verify(home.journal, home.device_key().public_key(), None).is_intact
