from pathlib import Path

import pytest

from smallhold.assist.alarm import AlarmManager, AlarmRules, AlarmTimes, Inactivation, InactivationState
from smallhold.assist.alarm_rules import CallLevel, load_alarm_rules
from smallhold.errors import InputError, RecipeError
from smallhold.records import AlertState, Priority

from .small_ward import MINUTE_MS
from .test_alarm import HIGH, LOW, MEDIUM, alert, names

AUDIO_PAUSED, ALARM_PAUSED, AUDIO_OFF, ALARM_OFF = InactivationState


def off(state: InactivationState, minutes: float | None, condition: str = "", *, at: int = 0) -> Inactivation:
    until_ms = None if minutes is None else int((at + minutes) * MINUTE_MS)
    return Inactivation(state, "p", condition, "nurse", "washing", at * MINUTE_MS, until_ms)


def told(manager: AlarmManager) -> list[tuple[str, str, str]]:
    return [(e.change.value, e.inactivation.state.value, e.actor) for e in manager.take_events()]


def heard(manager: AlarmManager, minute: int) -> list[tuple[str, bool, bool]]:
    return [(s.alert.condition, s.is_audible, s.is_visible) for s in manager.signals("p", minute * MINUTE_MS)]


def test_an_alert_sounds_and_shows_until_it_is_acknowledged() -> None:
    manager = AlarmManager()
    manager.present(alert(HIGH, 0))
    assert heard(manager, 0) == [("c", True, True)]
    manager.acknowledge("p", "c", "nurse", 0)
    assert heard(manager, 0) == [("c", False, True)]


def test_audio_paused_takes_the_sound_for_a_while_and_is_logged() -> None:
    manager = AlarmManager()
    manager.present(alert(HIGH, 0))
    manager.inactivate(off(AUDIO_PAUSED, 2))
    assert heard(manager, 1) == [("c", False, True)]
    assert [item.reason for item in manager.inactivations("p", MINUTE_MS)] == ["washing"]
    assert heard(manager, 2) == [("c", True, True)] and manager.inactivations("p", 2 * MINUTE_MS) == ()
    manager.tick(3 * MINUTE_MS)
    events = manager.take_events()
    assert [(e.change.value, e.t_ms // MINUTE_MS) for e in events] == [("began", 0), ("expired", 2)]


def test_a_call_that_an_alarm_pause_withheld_comes_when_it_ends() -> None:
    manager = AlarmManager()
    manager.inactivate(off(ALARM_PAUSED, 2))
    (raised,) = manager.present(alert(MEDIUM, 1))
    assert (raised.is_announced, raised.is_withheld) == (False, True)
    assert heard(manager, 1) == [("c", False, False)]
    assert manager.tick(MINUTE_MS) == ()
    (again,) = manager.tick(2 * MINUTE_MS)
    assert again.is_announced and again.change.value == "raised"
    assert manager.tick(3 * MINUTE_MS) == ()


def test_what_was_acknowledged_or_gone_is_not_called_after_a_pause() -> None:
    for act in ("acknowledge", "absent"):
        manager = AlarmManager(AlarmTimes(settle_ms=0))
        manager.inactivate(off(ALARM_PAUSED, 2))
        manager.present(alert(MEDIUM, 1))
        if act == "acknowledge":
            manager.acknowledge("p", "c", "nurse", MINUTE_MS)
        else:
            manager.absent("p", "c", MINUTE_MS)
        assert manager.tick(3 * MINUTE_MS) == ()


@pytest.mark.parametrize("state", [AUDIO_PAUSED, ALARM_PAUSED])
def test_a_new_high_ends_a_pause_and_a_standing_one_keeps_its_light(state: InactivationState) -> None:
    manager = AlarmManager()
    manager.present(alert(HIGH, 0))
    manager.inactivate(off(state, 2))
    assert heard(manager, 1) == [("c", False, True)]
    (raised,) = manager.present(alert(HIGH, 1, condition="new"))
    assert raised.is_announced
    assert heard(manager, 1) == [("c", True, True), ("new", True, True)]
    assert told(manager) == [("began", state.value, "nurse"), ("broken", state.value, "")]


def test_a_pause_of_another_condition_outlives_a_new_high() -> None:
    manager = AlarmManager()
    manager.inactivate(off(AUDIO_PAUSED, 2, "other"))
    manager.present(alert(HIGH, 1))
    assert len(manager.inactivations("p", MINUTE_MS)) == 1 and heard(manager, 1) == [("c", True, True)]


def test_audio_off_lasts_until_a_person_ends_it_and_a_high_sounds_through_it() -> None:
    manager = AlarmManager()
    manager.inactivate(off(AUDIO_OFF, None))
    manager.present(alert(MEDIUM, 1))
    manager.present(alert(HIGH, 1, condition="h"))
    manager.tick(600 * MINUTE_MS)
    assert heard(manager, 600) == [("h", True, True), ("c", False, True)]
    manager.reactivate("p", "", AUDIO_OFF, "doctor", 600 * MINUTE_MS)
    assert heard(manager, 600)[1] == ("c", True, True)
    assert told(manager) == [("began", "audio off", "nurse"), ("ended", "audio off", "doctor")]


def test_alarm_off_covers_a_technical_or_low_condition_alone() -> None:
    manager = AlarmManager()
    manager.present(alert(LOW, 0, kind="technical"))
    manager.inactivate(off(ALARM_OFF, None, "c"))
    assert heard(manager, 0) == [("c", False, False)]
    (raised,) = manager.present(alert(MEDIUM, 1, kind="technical"))
    assert raised.is_withheld  # still technical
    (raised,) = manager.present(alert(HIGH, 2, kind="technical"))
    assert raised.is_announced and heard(manager, 2) == [("c", True, True)]
    assert told(manager)[-1] == ("broken", "alarm off", "")


@pytest.mark.parametrize(
    ("priority", "kind", "rules", "message"),
    [
        (HIGH, "physiological", AlarmRules(), "allowed for low, technical, got a high physiological"),
        (HIGH, "technical", AlarmRules(), "got a high technical"),
        (MEDIUM, "physiological", AlarmRules(), "got a medium physiological"),
        (LOW, "physiological", AlarmRules(alarm_off=frozenset({"technical"})), "allowed for technical, got a low"),
        (LOW, "technical", AlarmRules(alarm_off=frozenset()), "allowed for nothing"),
    ],
)
def test_alarm_off_of_anything_else_is_refused(priority: Priority, kind: str, rules: AlarmRules, message: str) -> None:
    manager = AlarmManager(rules)
    manager.present(alert(priority, 0, kind=kind))
    with pytest.raises(InputError, match=message):
        manager.inactivate(off(ALARM_OFF, None, "c"))
    assert manager.inactivations("p", 0) == () and manager.take_events() == ()


def test_inactivations_without_a_person_an_end_or_a_condition_are_refused() -> None:
    manager = AlarmManager()
    for wanted, message in (
        (off(ALARM_PAUSED, 3), "alarm paused: expected 1 to 120000 ms, got 180000 ms"),
        (off(ALARM_PAUSED, None), "expected 1 to 120000 ms, got None"),
        (off(AUDIO_OFF, 0), "audio off: expected an end after 0 ms"),
        (off(ALARM_OFF, None), "expected one standing condition"),
        (Inactivation(AUDIO_OFF, "p", "", " ", "", 0, None), "expected the name of a person"),
    ):
        with pytest.raises(InputError, match=message):
            manager.inactivate(wanted)
    with pytest.raises(InputError, match="audio off is not in force for the bed"):
        manager.reactivate("p", "", AUDIO_OFF, "nurse", 0)


def test_an_acknowledgement_runs_out_while_the_condition_persists() -> None:
    manager = AlarmManager()
    manager.present(alert(HIGH, 0))
    manager.acknowledge("p", "c", "nurse", 0, for_ms=10 * MINUTE_MS)
    assert manager.tick(9 * MINUTE_MS) == ()
    (again,) = manager.tick(10 * MINUTE_MS)
    assert (again.change.value, again.is_announced, again.alert.state) == ("reactivated", True, AlertState.ACTIVE)
    # The time to answer begins again.
    assert names(manager.tick(39 * MINUTE_MS)) == [] and names(manager.tick(40 * MINUTE_MS)) == ["escalated"]


def test_an_acknowledgement_does_not_run_out_for_what_is_gone() -> None:
    manager = AlarmManager(AlarmTimes(acknowledged_high_ms=10 * MINUTE_MS))
    manager.present(alert(HIGH, 0))
    manager.acknowledge("p", "c", "nurse", 0)
    manager.absent("p", "c", MINUTE_MS)
    assert manager.tick(20 * MINUTE_MS) == ()
    assert names(manager.tick(31 * MINUTE_MS)) == ["resolved"]


def test_acknowledging_again_renews_the_time() -> None:
    manager = AlarmManager(AlarmTimes(acknowledged_high_ms=10 * MINUTE_MS))
    manager.present(alert(HIGH, 0))
    manager.acknowledge("p", "c", "nurse", 0)
    assert names(manager.acknowledge("p", "c", "doctor", 5 * MINUTE_MS)) == ["acknowledged"]
    assert manager.tick(14 * MINUTE_MS) == () and names(manager.tick(15 * MINUTE_MS)) == ["reactivated"]
    with pytest.raises(InputError, match="1 ms or more, got 0 ms"):
        manager.acknowledge("p", "c", "doctor", 0, for_ms=0)


RULES = """
format = 1
[times]
settle = 0.5
acknowledged_high = 600
[[level]]
role = "nurse"
[[level]]
role = "charge nurse"
high = 300
medium = 1800
[[level]]
role = "physician"
high = 900
[off]
alarm = ["low"]
audio_up_to = "low"
"""


@pytest.fixture
def rules_file(tmp_path: Path) -> Path:
    path = tmp_path / "alarms.toml"
    path.write_text(RULES)
    return path


def test_rules_are_read_from_a_file(rules_file: Path) -> None:
    rules = load_alarm_rules(rules_file)
    assert (rules.times.settle_ms, rules.times.acknowledged_high_ms, rules.times.escalate_high_ms) == (
        500,
        600_000,
        1_800_000,
    )
    assert rules.levels == (
        CallLevel("nurse"),
        CallLevel("charge nurse", 300_000, 1_800_000),
        CallLevel("physician", 900_000, None),
    )
    assert (rules.alarm_off, rules.audio_off_up_to) == ({"low"}, LOW)


def test_nobody_answering_calls_one_level_after_the_other(rules_file: Path) -> None:
    manager = AlarmManager(load_alarm_rules(rules_file))
    calls = [(0, c.alert.condition, c.role) for c in manager.present(alert(HIGH, 0, condition="h"))]
    calls += [(0, c.alert.condition, c.role) for c in manager.present(alert(MEDIUM, 0, condition="m"))]
    for minute in range(0, 100, 5):
        calls += [(minute, c.alert.condition, c.role) for c in manager.tick(minute * MINUTE_MS)]
    assert calls == [
        (0, "h", "nurse"),
        (0, "m", "nurse"),
        (5, "h", "charge nurse"),
        (15, "h", "physician"),
        (30, "m", "charge nurse"),
    ]


def test_levels_that_came_due_together_are_all_called(rules_file: Path) -> None:
    manager = AlarmManager(load_alarm_rules(rules_file))
    manager.present(alert(HIGH, 0))
    assert [c.role for c in manager.tick(60 * MINUTE_MS)] == ["charge nurse", "physician"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("format = 1", "format = 2", "format: expected 1, got 2"),
        ("settle = 0.5", "settle = -1", "times.settle: expected seconds from 0 to a week, got -1"),
        ("settle = 0.5", 'settle = "x"', "times.settle: expected seconds"),
        ("settle", "setle", "times: unknown entry 'setle'"),
        ("high = 900", "high = 200", r"expected growing times for high, got \[300000, 200000\]"),
        ("high = 900", "", r"level\[2\]: expected the seconds after which"),
        ('role = "nurse"', 'role = "nurse"\nhigh = 1', r"level\[0\]: the first level is called at once"),
        ('role = "physician"', "role = 3", r"level\[2\].role: expected a name, got 3"),
        ('["low"]', '["high"]', "alarm_off: expected some of technical, low, got 'high'"),
        ('audio_up_to = "low"', 'audio_up_to = "high"', "a HIGH always sounds"),
        ('audio_up_to = "low"', 'audio_up_to = "loud"', "'loud' is not a valid Priority"),
        ("[times]", "[times", "cannot be read"),
    ],
)
def test_impossible_rules_are_refused_with_the_entry(rules_file: Path, old: str, new: str, message: str) -> None:
    rules_file.write_text(RULES.replace(old, new, 1))
    with pytest.raises(RecipeError, match=message):
        load_alarm_rules(rules_file)


def test_several_sources_of_one_condition_are_one_alert() -> None:
    manager = AlarmManager(AlarmTimes(settle_ms=0))

    def from_(source: str, priority: Priority, minute: int) -> list[str]:
        item = alert(priority, minute)
        return names(manager.report(type(item)(**{**{n: getattr(item, n) for n in item.__slots__}, "source": source})))

    assert from_("monitor", MEDIUM, 0) == ["raised"]
    assert from_("central", LOW, 1) == []  # quieter about the same: nothing new
    assert from_("central", HIGH, 2) == ["raised"]
    assert [a.priority for a in manager.current("p")] == [HIGH]
    assert manager.withdraw("p", "c", "central", 3 * MINUTE_MS) == ()
    assert [a.priority for a in manager.current("p")] == [MEDIUM]
    assert names(manager.withdraw("p", "c", "monitor", 4 * MINUTE_MS)) == ["latched"]
    assert manager.withdraw("p", "c", "nobody", 5 * MINUTE_MS) == ()
