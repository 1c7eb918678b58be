import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.assist.alarm_log import AlarmLog, apply_acknowledgement
from smallhold.assist.sync import ACT, RECORD, Act, Batch, HybridClock, Stamp, SyncNode, find_conflicts
from smallhold.assist.sync.exchange import SyncServer, sync_folder, sync_http
from smallhold.device.journal import Journal
from smallhold.device.journal_verify import verify
from smallhold.errors import InputError, JournalError
from smallhold.records import Priority

from ..test_alarm import alert

KEYS = {
    name: Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)) for number, name in enumerate(("a", "b", "ward"))
}
PUBLIC = {name: key.public_key() for name, key in KEYS.items()}


class Machine:
    """A node with its journal; `restart` is what a kill leaves."""

    def __init__(self, name: str, folder: Path, wall_ms: int = 1_000_000) -> None:
        self.name, self.path, self.wall_ms = name, folder / f"{name}.db", wall_ms
        self.open()

    def open(self) -> None:
        self.journal = Journal.open(self.path, key=KEYS[self.name], clock=lambda: self.wall_ms)
        wants = (ACT, RECORD) if self.name == "ward" else (ACT,)
        self.node = SyncNode(self.journal, self.name, wants=wants, wall=lambda: self.wall_ms)

    def restart(self) -> None:
        self.journal.close()
        self.open()

    @property
    def peers(self):
        return {name: key for name, key in PUBLIC.items() if (name == "ward") != (self.name == "ward")}


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[dict[str, Machine]]:
    made = {name: Machine(name, tmp_path) for name in KEYS}
    yield made
    for machine in made.values():
        machine.journal.close()


def exchange(first: Machine, second: Machine, rounds: int = 3) -> None:
    heard = second.node.greeting(first.name)
    for _ in range(rounds):
        there = first.node.batch_for(heard)
        second.node.take(there)
        heard = second.node.batch_for(there)
        first.node.take(heard)


def received(machine: Machine, device: str, stream: str) -> list[bytes | None]:
    have = {(device, stream): -1}
    asking = Batch("x", machine.name, have, (ACT, RECORD))
    return [m.payload for m in machine.node.batch_for(asking).messages if (m.device, m.stream) == (device, stream)]


def test_steps_and_acts_arrive_once_and_in_order(machines) -> None:
    a, ward = machines["a"], machines["ward"]
    for number in range(5):
        a.journal.append("step", b'{"patient":"p","n":%d}' % number, patient="p")
        a.journal.append("note", b"not sent")
    act = a.node.act("acknowledge", actor="nurse", about="p/c/1", patient="p", body={"why": "seen"})
    for _ in range(3):
        exchange(a, ward)
    assert received(ward, "a", RECORD) == [b'{"patient":"p","n":%d}' % number for number in range(5)]
    assert ward.node.acts() == (act,) and act.body == {"why": "seen"}
    kinds = [entry.kind for entry, _ in ward.journal.entries()]
    assert (kinds.count("sync-received"), kinds.count("note")) == (6, 0)
    assert b"seen" not in ward.path.read_bytes()  # sealed there, too
    assert verify(ward.path, PUBLIC["ward"]).is_intact


def test_acts_reach_other_devices_through_the_ward_and_steps_do_not(machines) -> None:
    a, b, ward = machines["a"], machines["b"], machines["ward"]
    a.journal.append("step", b'{"patient":"p"}', patient="p")
    a.node.act("message", actor="nurse", body={"text": "bed 4 sleeps"})
    ward.node.act("medication", actor="physician", about="dose-1", patient="p")
    exchange(a, ward)
    exchange(b, ward)
    assert a.node.acts()[0].kind == "medication" or a.node.acts()[1].kind == "medication"
    assert b.node.acts() == ward.node.acts() and len(b.node.acts()) == 2
    assert b.node.have == {("a", ACT): 1, ("ward", ACT): 0}


def test_two_people_who_did_not_know_of_each_other_are_a_conflict_everywhere(machines) -> None:
    a, b, ward = (machines[name] for name in ("a", "b", "ward"))
    first = a.node.act("acknowledge", actor="Ann", about="p/c/1", patient="p")
    second = b.node.act("give", actor="Bob", about="p/c/1", patient="p")
    b.node.act("give", actor="Bob", about="other", patient="p")
    assert a.node.conflicts() == b.node.conflicts() == ()
    for _ in range(2):
        exchange(a, ward)
        exchange(b, ward)
    (conflict,) = ward.node.conflicts()
    assert a.node.conflicts() == b.node.conflicts() == (conflict,)
    assert conflict.resolved_by is None
    assert list(conflict.acts) == sorted((first, second), key=lambda act: act.order)
    assert [entry.kind for entry, _ in ward.journal.entries()].count("sync-conflict") == 1
    settled = a.node.act("resolve", actor="Cid", about="p/c/1", patient="p")
    exchange(a, ward)
    exchange(b, ward)
    assert [c.resolved_by for c in b.node.conflicts()] == [settled]


def test_one_who_knew_of_the_other_is_no_conflict(machines) -> None:
    a, ward = machines["a"], machines["ward"]
    a.node.act("acknowledge", actor="Ann", about="x")
    exchange(a, ward)
    ward.node.act("override", actor="Bob", about="x")
    exchange(a, ward)
    assert a.node.conflicts() == ward.node.conflicts() == ()


def test_a_restart_forgets_nothing_and_sends_nothing_twice(machines) -> None:
    a, ward = machines["a"], machines["ward"]
    a.node.act("message", actor="Ann")
    exchange(a, ward)
    have, acts, newest = a.node.have, a.node.acts(), a.node.clock.newest
    a.restart()
    ward.restart()
    assert (a.node.have, a.node.acts(), a.node.clock.newest) == (have, acts, newest)
    before = len(list(ward.journal.entries()))
    exchange(a, ward)
    assert len(list(ward.journal.entries())) == before
    later = a.node.act("message", actor="Ann")
    assert later.stamp > acts[0].stamp


def test_a_gap_waits_and_a_known_message_is_a_duplicate(machines) -> None:
    a, ward = machines["a"], machines["ward"]
    for _ in range(4):
        a.node.act("message", actor="Ann")
    batch = a.node.batch_for(ward.node.greeting("a"))
    taken = ward.node.take(replace(batch, messages=batch.messages[:1] + batch.messages[2:]))
    assert (len(taken.acts), taken.gaps) == (1, 1)
    assert (len(ward.node.take(batch).acts), ward.node.take(batch).duplicates) == (3, 4)


def test_another_history_under_known_numbers_is_refused(machines, tmp_path) -> None:
    a, ward = machines["a"], machines["ward"]
    a.node.act("message", actor="Ann")
    copy = a.path.read_bytes()
    a.journal.close()
    saved = {file: file.read_bytes() for file in tmp_path.glob("a.db*")}
    a.open()
    a.node.act("message", actor="Ann", body={"n": 1})
    exchange(a, ward)
    a.journal.close()
    for file, data in saved.items():
        file.write_bytes(data)
    assert copy
    a.open()  # the device was restored from a backup
    with pytest.raises(JournalError, match="ward has entry 1 of a, whose journal ends before it: it is an older copy"):
        a.node.batch_for(ward.node.greeting("a"))
    a.node.act("message", actor="Ann", body={"n": 2})
    a.node.act("message", actor="Ann", body={"n": 3})
    blind = a.node.batch_for(Batch("ward", "a", {}, (ACT,)))
    taken = ward.node.take(blind)
    assert "entry 1 of a is not the one that was taken before" in taken.refused[0] and taken.acts == []


def test_an_erased_patient_is_not_fetched_again_and_leaves_no_gap(machines) -> None:
    a, b, ward = (machines[name] for name in ("a", "b", "ward"))
    for patient in ("p1", "p2", "p1", "p2"):
        a.node.act("message", actor="Ann", patient=patient, body={"secret": f"of {patient}"})
        a.journal.append("step", b'{"patient":"%s"}' % patient.encode(), patient=patient)
    exchange(a, ward)
    ward.journal.erase_patient("p1", "asked")
    ward.restart()
    before = len(list(ward.journal.entries()))
    exchange(a, ward)
    assert len(list(ward.journal.entries())) == before
    exchange(b, ward)
    assert [act.patient for act in b.node.acts()] == ["p2", "p2"]
    a.node.act("message", actor="Ann", patient="p2")
    exchange(a, ward)
    exchange(b, ward)
    assert len(b.node.acts()) == 3
    # Erased at its origin before it was sent: the number travels, the payload does not.
    a.node.act("message", actor="Ann", patient="p3")
    a.journal.erase_patient("p3", "asked")
    a.node.act("message", actor="Ann", patient="p2")
    exchange(a, ward)
    assert [act.patient for act in ward.node.acts()] == ["p2"] * 4


def test_an_acknowledgement_from_elsewhere_reaches_the_alert_once(machines) -> None:
    a = machines["a"]
    log = AlarmLog(a.journal)
    log.manager("p").present(alert(Priority.HIGH, 0))
    assert (
        apply_acknowledgement(log, "p/c/1", "Bob", 5) and log.manager("p").current("p")[0].state.value == "acknowledged"
    )
    before = len(list(a.journal.entries()))
    assert apply_acknowledgement(log, "p/c/1", "Bob", 6) and len(list(a.journal.entries())) == before
    assert not apply_acknowledgement(log, "p/c/2", "Bob", 6)


def test_a_folder_brings_everything_and_a_bad_file_is_refused(machines, tmp_path) -> None:
    a, ward = machines["a"], machines["ward"]
    folder = tmp_path / "stick"
    folder.mkdir()

    def visit(machine: Machine):
        return sync_folder(machine.node, folder, KEYS[machine.name], machine.peers)

    a.node.act("message", actor="Ann")
    ward.node.act("message", actor="Bob")
    for machine in (a, ward, a, ward):
        assert [item.error for item in visit(machine) if item.peer in ("a", "ward")] == [""]
    assert a.node.acts() == ward.node.acts() and len(a.node.acts()) == 2
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in folder.iterdir())
    for number, damage in enumerate(
        (lambda d: d[:-20], lambda d: d.replace(b"have", b"hive"), lambda d: b"", lambda d: b"[]", lambda d: b"\xff")
    ):
        ward.node.act("message", actor="Bob", body={"n": number})
        visit(ward)
        before = a.node.acts()
        for file in folder.iterdir():
            file.write_bytes(damage(file.read_bytes()))
        (result,) = visit(a)
        assert "sync-" in result.error and result.taken is None and a.node.acts() == before
        for machine in (ward, a, ward, a):  # what the bad file should have brought comes again
            visit(machine)
        assert len(a.node.acts()) == len(before) + 1


def test_a_batch_for_another_device_or_by_a_stranger_is_refused(machines) -> None:
    data = machines["a"].node.greeting("ward").to_bytes(KEYS["a"])
    assert Batch.from_bytes(data, PUBLIC, to="ward").sender == "a"
    with pytest.raises(InputError, match=r"expected the schema .* to 'b', got"):
        Batch.from_bytes(data, PUBLIC, to="b")
    with pytest.raises(InputError, match="sender 'a' is not a known peer"):
        Batch.from_bytes(data, {"b": PUBLIC["b"]}, to="ward")
    with pytest.raises(InputError, match="not signed by the peer"):
        Batch.from_bytes(machines["a"].node.greeting("ward").to_bytes(KEYS["b"]), PUBLIC, to="ward")


def test_over_http_on_loopback(machines) -> None:
    a, b, ward = (machines[name] for name in ("a", "b", "ward"))
    for number in range(30):
        a.journal.append("step", b'{"patient":"p","n":%d}' % number, patient="p")
    a.node.act("message", actor="Ann")
    server = SyncServer(ward.node, KEYS["ward"], ward.peers).start()
    try:
        assert server.url.startswith("http://127.0.0.1:")
        done = sync_http(a.node, server.url, "ward", KEYS["a"], a.peers)
        assert (done.error, done.sent) == ("", 31)
        again = sync_http(a.node, server.url, "ward", KEYS["a"], a.peers)
        assert (again.error, again.sent) == ("", 0)
        threads = [
            threading.Thread(target=sync_http, args=(m.node, server.url, "ward", KEYS[m.name], m.peers)) for m in (a, b)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert b.node.acts() == a.node.acts()
        stranger = sync_http(a.node, server.url, "ward", Ed25519PrivateKey.generate(), a.peers)
        assert "answered 400" in stranger.error and "not signed" in stranger.error
    finally:
        server.close()
    assert received(ward, "a", RECORD)[-1] == b'{"patient":"p","n":29}'
    assert sync_http(a.node, server.url, "ward", KEYS["a"], a.peers, timeout_seconds=2).error
    assert "expected http://" in sync_http(a.node, "ftp://x", "ward", KEYS["a"], a.peers).error


def test_misuse_is_refused(machines) -> None:
    with pytest.raises(InputError, match="without '/'"):
        SyncNode(machines["a"].journal, "a/b")
    with pytest.raises(InputError, match="expected the name of a person"):
        machines["a"].node.act("message", actor=" ")


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20))
def test_stamps_only_grow_whatever_the_wall_clock_does(walls: list[int]) -> None:
    clock = HybridClock()
    stamps = [clock.tick(wall) for wall in walls]
    assert stamps == sorted(set(stamps))
    assert all(stamp.ms == max(walls[: n + 1]) for n, stamp in enumerate(stamps))


def test_a_stamp_of_a_day_ahead_is_not_followed() -> None:
    clock = HybridClock(most_ahead_ms=60_000)
    assert clock.follow(Stamp(1_050_000, 3), 1_000_000) and clock.tick(1_000_000) == Stamp(1_050_000, 4)
    assert not clock.follow(Stamp(90_000_000, 0), 1_000_000) and clock.tick(1_000_000) == Stamp(1_050_000, 5)


@st.composite
def histories(draw) -> list[Act]:
    """Acts of three devices that sometimes hear of each other."""
    known: dict[str, dict[str, int]] = {name: {} for name in "abc"}
    acts: list[Act] = []
    for seq in range(draw(st.integers(0, 12))):
        device, peer = draw(st.sampled_from("abc")), draw(st.sampled_from("abc"))
        if draw(st.booleans()):
            for name, newest in known[peer].items():
                known[device][name] = max(known[device].get(name, -1), newest)
        about = draw(st.sampled_from(["x", "y", ""]))
        seen = {name: newest for name, newest in known[device].items() if name != device}
        acts.append(
            Act(
                device=device,
                seq=seq,
                stamp=Stamp(seq, 0),
                kind="k",
                about=about,
                patient=None,
                actor="n",
                body={},
                seen=seen,
            )
        )
        known[device][device] = seq
    return acts


@settings(max_examples=200, deadline=None)
@given(histories(), st.randoms())
def test_conflicts_do_not_depend_on_the_order_of_arrival_and_miss_no_pair(acts, rng) -> None:
    found = find_conflicts(acts)
    shuffled = list(acts)
    rng.shuffle(shuffled)
    assert find_conflicts(shuffled) == found
    pairs = {
        frozenset((x.seq, y.seq))
        for x in acts
        for y in acts
        if x.about and x.about == y.about and x.device != y.device and y.seq > x.seq and not y.has_seen(x)
    }
    for pair in pairs:
        assert sum(pair <= {act.seq for act in conflict.acts} for conflict in found) == 1
    assert bool(pairs) == bool(found)
