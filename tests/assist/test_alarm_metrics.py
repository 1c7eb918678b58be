import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.assist import replay
from smallhold.assist.alarm import AlarmManager, AlarmTimes, Inactivation, InactivationState
from smallhold.assist.alarm_log import AlarmEntry, AlarmLog
from smallhold.assist.alarm_metrics import (
    FLOOD_ALARMS,
    FLOOD_MS,
    FLOOD_OVER_ALARMS,
    AlarmTally,
    find_floods,
    read_alarms,
)
from smallhold.cli import journal as command
from smallhold.device.home import Home, init
from smallhold.device.journal import Journal
from smallhold.errors import InputError
from smallhold.records import Feedback, Priority, canonical_json, to_json

from .small_ward import MINUTE_MS, PROVENANCE, make_bedside, make_plan
from .test_alarm import HIGH, LOW, MEDIUM, alert
from .test_alarm_log import KEY

DAY = 24 * 60


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db", key=KEY) as opened:
        yield opened


class Bed:
    """A manager whose every change is told to a tally."""

    def __init__(self) -> None:
        self.manager, self.tally = AlarmManager(AlarmTimes(settle_ms=0)), AlarmTally()

    def at(self, minute: int, work=lambda manager, t_ms: ()) -> None:
        t_ms = minute * MINUTE_MS
        changes = work(self.manager, t_ms)
        changes = (changes if isinstance(changes, tuple) else ()) + self.manager.tick(t_ms)
        self.tally.add_alarm(AlarmEntry("p", t_ms, changes, self.manager.take_events(), {}))

    @property
    def report(self):
        return self.tally.report()


def test_a_day_that_can_be_counted_by_hand() -> None:
    bed = Bed()
    bed.at(0)
    bed.at(10, lambda m, _: m.present(alert(HIGH, 10)))
    bed.at(12, lambda m, t: m.acknowledge("p", "c", "nurse", t))  # sounded 2 minutes
    bed.at(20, lambda m, t: m.absent("p", "c", t))
    bed.at(100, lambda m, _: m.present(alert(MEDIUM, 100, condition="d")))
    bed.at(101, lambda m, t: m.pause_audio("p", "nurse", t, 2 * MINUTE_MS))
    bed.at(104)  # sounded 1 minute, was paused for 2, sounded again
    bed.at(110, lambda m, t: m.absent("p", "d", t))
    bed.at(200, lambda m, _: m.present(alert(LOW, 200, condition="e", kind="technical")))
    bed.at(DAY)
    told = bed.report
    assert (told["patients"], told["patient_days"]) == (1, 1.0)
    assert {name: item["n"] for name, item in told["alarms"].items()} == {"high": 1, "medium": 1, "low": 1, "info": 0}
    assert told["alarms"]["high"]["per_patient_day"] == 1.0 and told["alarms_by_source"] == {"floor": 3}
    sound = {"high": 120.0, "low": (DAY - 200) * 60.0, "medium": (10 - 2) * 60.0}
    assert told["audible"]["by_priority"] == sound and told["audible"]["seconds"] == sum(sound.values())
    assert told["acknowledgement_seconds"] == {"n": 1, "p50": 120.0, "p90": 120.0, "max": 120.0}
    assert told["never_acknowledged"] == 1 and told["escalations"] == 0
    assert told["inactivations"] == {"audio paused": {"n": 1, "seconds": 120.0}}
    assert told["floods"] == {"per_bed": {"n": 0, "alarms": 0, "longest_seconds": 0.0}}
    assert told["override_rate"] is None


def test_two_alerts_at_once_sound_once() -> None:
    bed = Bed()
    bed.at(0, lambda m, _: m.present(alert(MEDIUM, 0)) + m.present(alert(HIGH, 0, condition="d")))
    bed.at(10)
    told = bed.report["audible"]
    assert told["seconds"] == 600.0 and told["by_priority"] == {"high": 600.0, "medium": 600.0}


def test_a_pause_that_an_alarm_broke_is_quiet_until_then() -> None:
    bed = Bed()
    bed.at(0, lambda m, _: m.present(alert(HIGH, 0)))
    bed.at(1, lambda m, t: m.pause_audio("p", "nurse", t, 2 * MINUTE_MS))
    bed.at(2, lambda m, _: m.present(alert(HIGH, 2, condition="d")))
    bed.at(10)
    told = bed.report
    assert told["audible"]["seconds"] == 9 * 60.0 and told["inactivations_broken_by_an_alarm"] == 1


def test_audio_off_does_not_quiet_a_high_and_withheld_calls_are_counted() -> None:
    bed = Bed()
    bed.at(0, lambda m, t: m.inactivate(Inactivation(InactivationState.AUDIO_OFF, "p", "", "nurse", "", t, None)))
    bed.at(1, lambda m, _: m.present(alert(HIGH, 1)) + m.present(alert(LOW, 1, condition="d")))
    bed.at(2, lambda m, t: m.inactivate(Inactivation(InactivationState.ALARM_OFF, "p", "d", "nurse", "", t, None)))
    bed.at(3, lambda m, t: m.absent("p", "d", t))
    bed.at(4, lambda m, _: m.present(alert(LOW, 4, condition="d")))
    bed.at(11)
    told = bed.report
    assert told["audible"]["by_priority"] == {"high": 600.0} and told["withheld"] == 1
    assert told["inactivations"]["alarm off"] == {"n": 1, "seconds": 540.0}


@given(st.lists(st.integers(0, 4 * FLOOD_MS), max_size=60))
@settings(max_examples=150, deadline=None)
def test_floods_agree_with_looking_at_every_window(times: list[int]) -> None:
    times.sort()
    floods, start, first, last, count = [], None, 0, 0, 0
    for position, t_ms in enumerate(times):  # slow twin: counts the window anew at every alarm
        before = [other for other in times[:position] if t_ms - other < FLOOD_MS]
        if start is not None and len(before) < FLOOD_OVER_ALARMS:
            floods.append((first, last, count))
            start = None
        window = [*before, t_ms]
        if start is None and len(window) >= FLOOD_ALARMS:
            start, first, count = position, window[0], len(window)
        elif start is not None:
            count += 1
        last = t_ms
    if start is not None:
        floods.append((first, last, count))
    assert find_floods(times) == floods


def test_ten_alarms_in_ten_minutes_are_a_flood() -> None:
    minute = MINUTE_MS
    assert find_floods([n * minute for n in range(9)]) == []
    assert find_floods([n * minute for n in range(10)]) == [(0, 9 * minute, 10)]
    ebbed = [n * minute for n in range(12)] + [100 * minute]
    assert find_floods(ebbed) == [(0, 11 * minute, 12)]


def test_a_replays_journal_is_read(journal: Journal) -> None:
    summary = replay(make_plan(), make_bedside, journal)
    tally = read_alarms(journal, "yes")
    told = tally.report()
    assert told["patients"] == summary.patients and told["escalations"] == summary.escalations
    alarms = {name: item["n"] for name, item in told["alarms"].items() if item["n"]}
    assert alarms == {priority: sum(sources.values()) for priority, sources in summary.alerts.items()}
    patients, risks = tally.risk_matrix()
    assert len(patients) == 5 and risks.shape == (5, 8) and ((risks > 0) & (risks < 1)).all()
    assert "per_ward" not in told["floods"]  # beds on the clock of their stay are not together


def test_acts_of_people_and_the_alarm_log_are_read(journal: Journal) -> None:
    log = AlarmLog(journal)
    log.manager("p").present(alert(HIGH, 0))
    log.tick(0)
    log.acknowledge("p", "c", "nurse", 3 * MINUTE_MS)
    for response in ("accept", "override", "override", "snooze"):
        record = Feedback(
            subject="p/c/1",
            response=response,
            reason="",
            actor="nurse",
            t_ms=1,
            response_time_ms=1,
            provenance=replace(PROVENANCE),
        )
        journal.append("feedback", canonical_json(to_json(record)), patient="p")
    journal.append("feedback", b"another component's")
    told = read_alarms(journal).report()
    assert told["responses"] == {"accept": 1, "override": 2, "snooze": 1} and told["override_rate"] == round(2 / 3, 4)
    assert Priority.HIGH.value in told["alarms"]


def test_a_live_wards_acknowledgements_are_read(journal: Journal) -> None:
    manager = AlarmManager()
    changes = manager.present(alert(HIGH, 1)) + manager.present(alert(LOW, 1, condition="d"))
    journal.append("alarm", AlarmEntry("p", MINUTE_MS, changes, (), manager.snapshot()).to_payload(), patient="p")
    act = {"action": "acknowledge", "patient": "p", "condition": "c", "actor": "nurse", "t_ms": 4 * MINUTE_MS}
    journal.append("staff", canonical_json(act), patient="p")
    journal.append("staff", canonical_json({**act, "action": "discharge", "t_ms": 9 * MINUTE_MS}), patient="p")
    told = read_alarms(journal).report()
    assert told["acknowledgement_seconds"]["p50"] == 180.0 and told["never_acknowledged"] == 1
    assert told["audible"]["by_priority"] == {"high": 180.0, "low": 180.0}


def test_nothing_is_no_rate() -> None:
    told = AlarmTally().report()
    assert told["alarms"]["high"] == {"n": 0, "per_patient_day": None} and told["audible"]["per_patient_day"] is None
    assert AlarmTally().risk_matrix()[1].shape == (0, 0)


def test_the_command_counts_a_journal_and_measures_the_model_at_a_fixed_burden(tmp_path, capsys) -> None:
    home = Home(tmp_path / "home")
    init(home)

    def run(*words) -> int:
        parser = argparse.ArgumentParser()
        parser.set_defaults(json=False)
        command.configure(parser)
        return command.run(parser.parse_args([*map(str, words), "--home", str(home.path)]))

    from tests.assist.small_ward import make_bedside, make_plan

    from smallhold.assist import replay

    path = tmp_path / "ward.db"
    with Journal.open(path, key=home.device_key()) as journal:
        replay(make_plan(), make_bedside, journal)
    assert run("alarms", "--journal", path) == 0
    assert "patients     5, 1.67 days" in capsys.readouterr().out
    outcomes = tmp_path / "outcomes.csv"
    outcomes.write_text("patient,event\n" + "".join(f"p{n},{n % 2}\n" for n in range(5)))
    assert run("alarms", "--journal", path, "--outcomes", outcomes, "--json") == 0
    told = json.loads(capsys.readouterr().out)["model_at_fixed_burden"]
    assert [item["operating_point"] for item in told] == ["1 alert per 35 patient-days", "5 % of hourly assessments"]
    assert all(
        item["threshold_from"].endswith("optimistic") and item["patient_days"] == pytest.approx(5 / 3) for item in told
    )
    outcomes.write_text("patient,event\np1,maybe\n")
    with pytest.raises(InputError, match="columns patient and event"):
        run("alarms", "--journal", path, "--outcomes", outcomes)
    outcomes.write_text("patient,event\nnobody,1\n")
    with pytest.raises(InputError, match="no patient with an outcome"):
        run("alarms", "--journal", path, "--outcomes", outcomes)
