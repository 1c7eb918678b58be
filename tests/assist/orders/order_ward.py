"""A home with signed orders and two doctors, for tests; as a script it gives doses until it is killed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.assist.orders import (
    DoseRequest,
    OrderBook,
    Reading,
    StandingOrder,
    load_interactions,
    put_order,
    read_shelf,
    sign_order,
    verify_order,
)
from smallhold.assist.orders.standing_order import Bound
from smallhold.device.home import Home, init
from smallhold.device.journal import Journal
from smallhold.device.trust import load_trusted_keys, save_public_key
from smallhold.records import ActionClass, Effect, Provenance, Verdict

MINUTE, HOUR = 60_000, 3_600_000
START = 1_800_000_000_000
UNIT = 1_000_000
DOCTORS = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2)]
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)
PROVENANCE = Provenance(trace_id="0" * 32, simulated=True)

ORDER = StandingOrder(
    name="insulin-night",
    drug="insulin-regular",
    unit="U",
    dose_max=2 * UNIT,
    rate_max=5 * UNIT,
    rate_window_ms=HOUR,
    total_max=12 * UNIT,
    count_max=10,
    interval_ms=5 * MINUTE,
    not_before_ms=START,
    expires_ms=START + 12 * HOUR,
    patient="p-17",
    ward=None,
    required_signatures=1,
    allergies=("protamine",),
    interacting_drugs=("glucagon",),
    bounds=(Bound("Glucose", "mg/dL", 110 * UNIT, None, 10 * MINUTE),),
)


def verdict(effect: Effect = Effect.AUTO, action: ActionClass = ActionClass.A4) -> Verdict:
    return Verdict(action=action, effect=effect, clauses=("c",), obligations=(), provenance=PROVENANCE)


def make_home(folder: Path) -> Home:
    home = Home(folder / "home")
    init(home)
    (home.orders / "trust").mkdir(parents=True)
    for number, key in enumerate(DOCTORS):
        save_public_key(key.public_key(), home.orders / "trust" / f"doctor-{number}.pem")
    return home


def put(home: Home, order: StandingOrder = ORDER, keys: Sequence[Ed25519PrivateKey] = DOCTORS[:1]) -> Path:
    envelope = sign_order(order, keys)
    return put_order(home.orders, verify_order(envelope, load_trusted_keys(home.orders / "trust")), envelope)


def request(number: int = 0, *, now_ms: int = START, **changes: Any) -> DoseRequest:
    made = DoseRequest(
        id=f"dose-{number}",
        patient="p-17",
        ward="3-north",
        drug="insulin-regular",
        dose=UNIT,
        unit="U",
        allergies=frozenset(),
        drugs=frozenset({"metoprolol"}),
        readings={"Glucose": Reading(180.0, "mg/dL", now_ms)},
    )
    return replace(made, **changes)


class Ward:
    """An open book, a pump that remembers, and a wall clock that tests set."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.now_ms = START
        self.pump: list[tuple[int, int]] = []
        self.journal = Journal.open(home.journal, key=home.device_key(), clock=lambda: self.now_ms)
        self.book = OrderBook(home, self.journal, load_interactions(), monotonic=None)

    def ask(self, number: int = 0, /, **changes: Any) -> Any:
        return self.book.check(request(number, now_ms=self.now_ms, **changes), self.now_ms)

    def give(
        self, number: int = 0, /, *, people: Sequence[str] = (), says: Verdict | None = None, **changes: Any
    ) -> Any:
        return self.book.administer(
            request(number, now_ms=self.now_ms, **changes),
            self.now_ms,
            says or verdict(),
            lambda order: self.pump.append((order.t_ms, order.dose)),
            confirmed_by=people,
        )

    def reopen(self) -> None:
        self.journal.close()
        self.journal = Journal.open(self.home.journal, key=self.home.device_key(), clock=lambda: self.now_ms)
        self.book = OrderBook(self.home, self.journal, load_interactions(), monotonic=None)


def give_until_killed(home: Home, pump: Path) -> None:
    """Release as fast as possible; the pump is a file to which each released dose is appended."""
    journal = Journal.open(home.journal, key=home.device_key(), clock=lambda: START)
    book = OrderBook(home, journal, load_interactions(), monotonic=None)
    assert read_shelf(home.orders).orders
    done = len(pump.read_text().splitlines()) if pump.exists() else 0
    with pump.open("a") as file:

        def release(order: Any) -> None:
            file.write(f"{order.t_ms} {order.dose}\n")
            file.flush()

        number = done
        while True:
            now_ms = START + number * 1000
            try:
                book.administer(request(number, now_ms=now_ms), now_ms, verdict(), release)
            except Exception as error:
                print(error, flush=True)
            number += 1


if __name__ == "__main__":
    give_until_killed(Home(Path(sys.argv[1])), Path(sys.argv[2]))
