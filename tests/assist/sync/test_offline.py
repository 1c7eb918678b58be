"""72 hours of two devices and a ward node without a network that can be relied on, killed and cut at random."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smallhold.assist.alarm_log import AlarmLog, apply_acknowledgement
from smallhold.assist.sync import ACT, RECORD, find_conflicts
from smallhold.assist.sync.exchange import sync_folder
from smallhold.device.journal import Journal
from smallhold.device.journal_verify import verify
from smallhold.errors import JournalError
from smallhold.records import Priority

from ..small_ward import MINUTE_MS
from ..test_alarm import alert
from .test_node import KEYS, PUBLIC, Machine, received

HOUR_MS = 60 * MINUTE_MS


class KilledError(Exception):
    pass


class Mortal(Machine):
    """A machine that may be killed before or after any write, and starts again at once."""

    def __init__(self, name: str, folder: Path, rng: random.Random, skew_ms: int) -> None:
        self.rng, self.skew_ms, self.deaths, self.is_mortal = rng, skew_ms, 0, False
        super().__init__(name, folder)
        self.is_mortal = True

    def open(self) -> None:
        super().open()
        append = self.journal.append

        def maybe_die(*args, **options):
            if self.is_mortal and self.rng.random() < 0.01:
                raise KilledError
            entry = append(*args, **options)
            if self.is_mortal and self.rng.random() < 0.01:
                raise KilledError
            return entry

        self.journal.append = maybe_die  # type: ignore[method-assign]

    def do(self, work) -> None:
        try:
            work()
        except KilledError:
            self.deaths += 1
            self.restart()


def spoil(folder: Path, rng: random.Random, older: dict[Path, bytes]) -> None:
    """What a bad medium does: cuts, stale copies, other bytes, nothing at all."""
    for file in folder.iterdir():
        data = file.read_bytes()
        match rng.randrange(8):
            case 0:
                file.write_bytes(data[: rng.randrange(len(data) + 1)])
            case 1 if file in older:
                file.write_bytes(older[file])
            case 2 if data:
                at = rng.randrange(len(data))
                file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            case 3:
                file.unlink()
        older.setdefault(file, data)


@pytest.mark.parametrize("seed", [1])
def test_72_hours_offline_lose_nothing_and_double_nothing(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    folder = tmp_path / "medium"
    folder.mkdir()
    skews = {"a": 2 * HOUR_MS, "b": -HOUR_MS // 2, "ward": 0}
    machines = {name: Mortal(name, tmp_path, rng, skew) for name, skew in skews.items()}
    older: dict[Path, bytes] = {}
    numbers = dict.fromkeys(machines, 0)

    def sync(machine: Mortal) -> None:
        sync_folder(machine.node, folder, KEYS[machine.name], machine.peers)

    def live(machine: Mortal) -> None:
        numbers[machine.name] += 1
        if machine.name != "ward":
            payload = b'{"patient":"p%d","n":%d}' % (rng.randrange(3), numbers[machine.name])
            machine.journal.append("step", payload, patient=f"p{payload[13:14].decode()}")
        if rng.random() < 0.15:
            machine.node.act(
                rng.choice(["acknowledge", "give", "message"]),
                actor=f"nurse of {machine.name}",
                about=f"dose-{rng.randrange(20)}",
                patient="p1",
            )

    for quarter in range(72 * 4):
        for machine in machines.values():
            machine.wall_ms = 10**12 + quarter * 15 * MINUTE_MS + machine.skew_ms
            if rng.random() < 0.01:
                machine.wall_ms -= 3 * HOUR_MS  # a clock that jumps
            machine.do(lambda m=machine: live(m))
            if rng.random() < 0.08:  # the network is there for a moment
                machine.do(lambda m=machine: sync(m))
                if rng.random() < 0.5:
                    spoil(folder, rng, older)
    assert sum(machine.deaths for machine in machines.values()) >= 3
    for machine in machines.values():
        machine.is_mortal = False
    for _ in range(5):
        for machine in machines.values():
            sync(machine)
    ward = machines["ward"]
    for name in ("a", "b"):
        sent = [payload for entry, payload in machines[name].journal.entries() if entry.kind == "step"]
        assert len(sent) > 250 and received(ward, name, RECORD) == sent
    told = [act for machine in machines.values() for act in machine.node.acts() if act.device == machine.name]
    assert len(told) > 60
    expected = tuple(sorted(told, key=lambda act: act.order))
    for machine in machines.values():
        assert machine.node.acts() == expected
        assert machine.node.conflicts() == find_conflicts(expected) != ()
        noted = [entry for entry, _ in machine.journal.entries(kind="sync-conflict")]
        assert len(noted) >= len(machine.node.conflicts())
        machine.journal.close()
        assert verify(machine.path, PUBLIC[machine.name]).is_intact


def test_a_device_alone_for_72_hours_alarms_and_takes_the_wards_word_afterwards(tmp_path: Path) -> None:
    device, ward = Machine("a", tmp_path), Machine("ward", tmp_path)
    log = AlarmLog(device.journal)
    called = []
    for minute in range(72 * 60):
        if minute % 600 == 0:
            called += log.manager("p").present(alert(Priority.HIGH, minute, condition=f"c{minute // 600}"))
        called += [change for change in log.tick(minute * MINUTE_MS) if change.is_announced]
    assert len([c for c in called if c.change.value == "raised"]) == 8
    ward.node.act("acknowledge", actor="physician", about="p/c3/1", patient="p")
    for machine in (device, ward, device):
        sync_folder(machine.node, tmp_path, KEYS[machine.name], machine.peers)
    for act in device.node.acts():
        assert apply_acknowledgement(log, act.about, act.actor, 72 * HOUR_MS)
    states = {item.condition: item.state.value for item in log.manager("p").current("p")}
    assert states["c3"] == "acknowledged" and list(states.values()).count("active") == 7
    for machine in (device, ward):
        machine.journal.close()


def sync_forever(folder: Path, name: str, seed: int) -> None:
    rng = random.Random(seed)
    with Journal.open(folder / f"{name}.db", key=KEYS[name]) as journal:
        from smallhold.assist.sync import SyncNode

        node = SyncNode(journal, name, wants=(ACT, RECORD))
        peers = {other: key for other, key in PUBLIC.items() if other != name and other != "b"}
        while True:
            journal.append("step", b'{"patient":"p","n":%d}' % rng.randrange(10**9), patient="p")
            node.act("message", actor="Ann", about=f"x{rng.randrange(5)}", patient="p")
            sync_folder(node, folder, KEYS[name], peers)
            os.write(1, b".\n")


def test_real_kills_at_any_byte(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parents[3])])}
    script = "import sys; from pathlib import Path; from tests.assist.sync.test_offline import sync_forever as f"
    rng = random.Random(2)
    for seed in range(3):
        running = [
            subprocess.Popen(
                [sys.executable, "-c", f"{script}; f(Path(sys.argv[1]), {name!r}, {seed})", str(tmp_path)],
                stdout=subprocess.PIPE,
                env=environment,
            )
            for name in ("a", "ward")
        ]
        for process in running:
            assert process.stdout is not None and process.stdout.readline()
        time.sleep(rng.uniform(0.1, 0.4))
        for process in running:
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=10)
    a, ward = Machine("a", tmp_path), Machine("ward", tmp_path)
    for _ in range(4):
        for machine in (a, ward):
            sync_folder(machine.node, tmp_path, KEYS[machine.name], machine.peers)
    assert a.node.acts() == ward.node.acts() and len(a.node.acts()) > 6
    assert received(ward, "a", RECORD) == [payload for _, payload in a.journal.entries(kind="step")]
    for machine in (a, ward):
        machine.journal.close()
        assert verify(machine.path, PUBLIC[machine.name]).is_intact


def test_a_journal_that_cannot_be_written_takes_nothing_and_says_so(tmp_path: Path) -> None:
    a, ward = Machine("a", tmp_path), Machine("ward", tmp_path)
    ward.node.act("message", actor="Bob")
    batch = ward.node.batch_for(a.node.greeting("ward"))
    a.journal.close()
    with pytest.raises(JournalError, match="is closed"):
        a.node.take(batch)
    a.open()
    assert a.node.acts() == () and len(a.node.take(batch).acts) == 1
    for machine in (a, ward):
        machine.journal.close()
