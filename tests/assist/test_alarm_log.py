import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.assist.alarm import AlarmManager, AlarmTimes, Inactivation, InactivationState
from smallhold.assist.alarm_log import KIND, AlarmEntry, AlarmLog
from smallhold.assist.bedside import Bedside
from smallhold.device.journal import Journal
from smallhold.device.journal_verify import verify
from smallhold.errors import InputError, JournalError
from smallhold.records import Priority
from smallhold.sectors.hospital.floor import FloorState

from .small_ward import MINUTE_MS, make_ward, reading
from .test_alarm import alert

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db", key=KEY) as opened:
        yield opened


def entries(journal: Journal) -> list[AlarmEntry]:
    return [AlarmEntry.from_payload(payload) for _, payload in journal.entries(kind=KIND) if payload is not None]


def test_acts_are_logged_and_stand_after_a_restart(journal: Journal) -> None:
    log = AlarmLog(journal)
    bed = log.manager("p")
    bed.present(alert(Priority.HIGH, 0))
    bed.present(alert(Priority.LOW, 0, condition="other", kind="technical"))
    log.acknowledge("p", "c", "nurse", MINUTE_MS, for_ms=5 * MINUTE_MS)
    log.inactivate(Inactivation(InactivationState.ALARM_OFF, "p", "other", "nurse", "cable", MINUTE_MS, None))
    again = AlarmLog.resume(journal)
    assert again.patients == ("p",)
    assert again.manager("p").current("p") == bed.current("p")
    assert again.manager("p").inactivations("p", MINUTE_MS) == bed.inactivations("p", MINUTE_MS)
    assert [c.change.value for c in again.tick(6 * MINUTE_MS)] == ["reactivated"]
    told = [([c.change.value for c in e.changes], [i.change.value for i in e.inactivations]) for e in entries(journal)]
    assert told == [(["acknowledged"], []), ([], ["began"]), (["reactivated"], [])]


def test_nothing_new_is_not_written(journal: Journal) -> None:
    log = AlarmLog(journal)
    assert log.manager("q").current("q") == ()
    for minute in range(5):
        log.tick(minute * MINUTE_MS)
    assert entries(journal) == []


def make_bed(log: AlarmLog) -> Bedside:
    return Bedside("p", make_ward(), FloorState("p"), alarms=log.manager("p"))


def test_a_bed_goes_on_after_a_restart_without_calling_twice(journal: Journal) -> None:
    log = AlarmLog(journal)
    bed = make_bed(log)
    step = bed.observe(reading("HR", 180, 1), MINUTE_MS)
    raised = [c.alert.condition for c in step.changes if c.is_announced]
    assert "deterioration" in raised
    journal.append("step", step.to_payload())
    log.follow(step)
    before = bed.alarms.current("p")
    bed = make_bed(AlarmLog.resume(journal))
    assert bed.alarms.current("p") == before
    step = bed.observe(reading("HR", 181, 2), 2 * MINUTE_MS)
    assert [c for c in step.changes if c.is_announced] == []


def test_what_people_switched_off_is_in_the_next_step() -> None:
    bed = Bedside("p", make_ward(), FloorState("p"))
    bed.alarms.pause_audio("p", "nurse", 0, MINUTE_MS)
    step = bed.observe(reading("HR", 80, 2), 2 * MINUTE_MS)
    assert [(e.change.value, e.actor) for e in step.inactivations] == [("began", "nurse"), ("expired", "")]
    assert type(step).from_payload(step.to_payload()).inactivations == step.inactivations


def test_a_full_journal_does_not_stop_alarms_and_nothing_is_lost(journal: Journal, tmp_path: Path) -> None:
    log = AlarmLog(journal)
    log.manager("p").present(alert(Priority.HIGH, 0))
    journal.close()
    assert [c.change.value for c in log.acknowledge("p", "c", "nurse", 1)] == ["acknowledged"]
    assert log.journal_error is not None and "is closed" in log.journal_error
    with Journal.open(tmp_path / "journal.db", key=KEY) as opened:
        log._journal = opened
        log.tick(2)
        assert log.journal_error is None
        assert [c.actor for e in entries(opened) for c in e.changes] == ["nurse"]


@pytest.mark.parametrize(
    "state", [None, {}, {"schema": "x"}, {"schema": "smallhold.alarm-state/1", "conditions": [{}]}]
)
def test_what_is_no_state_is_refused(state: object) -> None:
    with pytest.raises(JournalError, match="state of the alarms cannot be read"):
        AlarmManager.restore(state)


@pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b'{"schema":"smallhold.alarm/1"}'])
def test_what_is_no_entry_is_refused(payload: bytes) -> None:
    with pytest.raises(JournalError, match="alarm entry cannot be read"):
        AlarmEntry.from_payload(payload)


def act_forever(folder: Path, seed: int) -> None:
    """Random acts of a ward; tells what stands after each, once it is on the disk."""
    rng = random.Random(seed)
    with Journal.open(folder / "journal.db", key=KEY) as journal:
        log = AlarmLog.resume(journal, AlarmTimes(settle_ms=0, acknowledged_high_ms=3 * MINUTE_MS))
        minute = seed * 1_000_000
        while True:
            minute += rng.randrange(3)
            t_ms, patient, condition = minute * MINUTE_MS, f"p{rng.randrange(3)}", rng.choice("ab")
            bed = log.manager(patient)
            match rng.randrange(5):
                case 0 | 1:
                    kind = rng.choice(["physiological", "technical"])
                    item = alert(rng.choice(list(Priority)), minute, condition=condition, kind=kind)
                    bed.present(replace(item, patient=patient))
                case 2:
                    bed.absent(patient, condition, t_ms)
                case 3 if any(a.condition == condition for a in bed.current(patient)):
                    with suppress(InputError):  # it may just have settled
                        log.acknowledge(patient, condition, "nurse", t_ms)
                case _:
                    wanted = Inactivation(
                        InactivationState.AUDIO_PAUSED, patient, "", "nurse", "", t_ms, t_ms + MINUTE_MS
                    )
                    log.inactivate(wanted)
            log.tick(t_ms)
            assert log.journal_error is None
            os.write(1, f"{written(journal)} {seed} {describe(log)}\n".encode())


def written(journal: Journal) -> int:
    """How many entries are on the disk: each one of this test is signed."""
    checkpoint = journal.last_checkpoint()
    return checkpoint.seq if checkpoint else 0


def describe(log: AlarmLog) -> str:
    stands = [
        (p, a.id, a.state.value, a.priority.value) for p in sorted(log.patients) for a in log.manager(p).current(p)
    ]
    off = [
        (i.patient, i.actor, i.until_ms)
        for p in sorted(log.patients)
        for i in log.manager(p).inactivations(p, -(10**15))
    ]
    return repr((stands, off))


def test_kills_lose_no_alert_no_acknowledgement_and_no_pause(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parents[2])])}
    moments = random.Random(1)
    script = "import sys; from pathlib import Path; from tests.assist.test_alarm_log import act_forever as f"
    for seed in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", f"{script}; f(Path(sys.argv[1]), {seed})", str(tmp_path)],
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert process.stdout is not None
        first = process.stdout.readline() + process.stdout.readline()
        time.sleep(moments.uniform(0.05, 0.3))
        process.send_signal(signal.SIGKILL)
        told = (first + process.stdout.read()).decode().split("\n")[:-1]
        process.wait(timeout=10)
        assert len(told) > 1
        with Journal.open(tmp_path / "journal.db", key=KEY) as journal:
            stands = f"{seed} {describe(AlarmLog.resume(journal, AlarmTimes(settle_ms=0)))}"
            further = written(journal) - int(told[-1].partition(" ")[0])
        # As last told, or within the next act (of three patients): written, but killed before it could be told.
        assert 0 <= further <= 4
        assert further or stands == told[-1].partition(" ")[2]
    assert verify(tmp_path / "journal.db", KEY.public_key()).is_intact
