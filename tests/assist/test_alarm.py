from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallhold.assist.alarm import (
    PRIORITY_TABLE,
    SIGNALS,
    AlarmManager,
    AlarmTimes,
    Change,
    Harm,
    Onset,
    priority_of,
    urgency,
)
from smallhold.errors import InputError
from smallhold.records import Alert, AlertState, Priority

from .small_ward import MINUTE_MS, PROVENANCE

HIGH, MEDIUM, LOW, INFO = Priority.HIGH, Priority.MEDIUM, Priority.LOW, Priority.INFO
NO_DELAY = AlarmTimes(settle_ms=0)


def alert(priority: Priority, minute: int, *, kind: str = "physiological", condition: str = "c") -> Alert:
    return Alert(
        id="",
        patient="p",
        t_ms=minute * MINUTE_MS,
        kind=kind,
        condition=condition,
        priority=priority,
        source="floor",
        is_degraded=False,
        message=f"{priority} at {minute}",
        provenance=PROVENANCE,
    )


def names(changes: tuple) -> list[str]:
    return [change.change.value for change in changes]


def test_the_priority_table_is_the_standards() -> None:
    table = [[priority_of(harm, onset).value for onset in Onset] for harm in Harm]
    assert table == [["high", "high", "medium"], ["high", "medium", "low"], ["medium", "low", "low"]]
    assert len(PRIORITY_TABLE) == 9


def test_signals_differ_in_colour_and_pulses() -> None:
    assert [SIGNALS[p].colors[0] for p in (HIGH, MEDIUM, LOW)] == ["red", "yellow", "cyan"]
    assert [SIGNALS[p].pulses for p in (HIGH, MEDIUM, LOW)] == [(10, 10), (3, 3), (1, 2)]
    assert SIGNALS[HIGH].flash_hz == (1.4, 2.8) and SIGNALS[MEDIUM].flash_hz == (0.4, 0.8)


def test_one_condition_is_announced_once() -> None:
    manager = AlarmManager()
    assert names(manager.present(alert(MEDIUM, 0))) == ["raised"]
    assert manager.present(alert(MEDIUM, 1)) == ()
    assert names(manager.present(alert(MEDIUM, 1, condition="other"))) == ["raised"]
    assert [a.id for a in manager.current("p")] == ["p/c/1", "p/other/1"]


def test_a_rise_is_announced_at_once_under_the_same_id() -> None:
    manager = AlarmManager()
    manager.present(alert(LOW, 0))
    (change,) = manager.present(alert(HIGH, 1))
    assert (change.change, change.alert.priority, change.alert.id) == (Change.RAISED, HIGH, "p/c/1")


def test_a_score_that_swings_around_the_threshold_alarms_once() -> None:
    manager = AlarmManager(AlarmTimes(settle_ms=30 * MINUTE_MS))
    heard = [
        c for minute in range(0, 100, 10) for c in manager.present(alert((HIGH, MEDIUM)[minute % 20 // 10], minute))
    ]
    assert len(heard) == 1


def test_after_a_lasting_fall_a_new_rise_is_announced() -> None:
    manager = AlarmManager(AlarmTimes(settle_ms=30 * MINUTE_MS))
    manager.present(alert(HIGH, 0))
    manager.present(alert(MEDIUM, 10))
    assert manager.current("p")[0].priority is HIGH
    manager.present(alert(MEDIUM, 40))
    assert manager.current("p")[0].priority is MEDIUM
    assert names(manager.present(alert(HIGH, 50))) == ["raised"]


def test_a_medium_resolves_when_its_condition_is_gone_for_long_enough() -> None:
    manager = AlarmManager(AlarmTimes(settle_ms=30 * MINUTE_MS))
    manager.present(alert(MEDIUM, 0))
    assert manager.absent("p", "c", 10 * MINUTE_MS) == ()
    assert manager.absent("p", "c", 39 * MINUTE_MS) == ()
    assert names(manager.absent("p", "c", 40 * MINUTE_MS)) == ["resolved"]
    assert manager.current("p") == ()
    (again,) = manager.present(alert(MEDIUM, 41))
    assert (again.change, again.alert.id) == (Change.RAISED, "p/c/2")


def test_an_unacknowledged_high_latches_and_a_person_resolves_it() -> None:
    manager = AlarmManager(NO_DELAY)
    manager.present(alert(HIGH, 0))
    (latched,) = manager.absent("p", "c", MINUTE_MS)
    assert (latched.change, latched.alert.state) == (Change.LATCHED, AlertState.LATCHED)
    assert manager.absent("p", "c", 2 * MINUTE_MS) == ()
    assert names(manager.present(alert(HIGH, 3))) == ["returned"]
    assert names(manager.absent("p", "c", 4 * MINUTE_MS)) == ["latched"]
    (resolved,) = manager.acknowledge("p", "c", "nurse", 5 * MINUTE_MS)
    assert (resolved.change, resolved.actor) == (Change.RESOLVED, "nurse")
    assert manager.current("p") == ()


def test_a_high_that_sank_to_medium_unacknowledged_still_latches() -> None:
    manager = AlarmManager(NO_DELAY)
    manager.present(alert(HIGH, 0))
    manager.present(alert(MEDIUM, 1))
    assert names(manager.absent("p", "c", 2 * MINUTE_MS)) == ["latched"]


def test_an_acknowledged_high_resolves_with_its_condition() -> None:
    manager = AlarmManager(NO_DELAY)
    manager.present(alert(HIGH, 0))
    assert names(manager.acknowledge("p", "c", "nurse", 1)) == ["acknowledged"]
    assert manager.acknowledge("p", "c", "nurse", 2) == ()
    assert manager.present(alert(HIGH, 2)) == ()
    assert names(manager.absent("p", "c", 3 * MINUTE_MS)) == ["resolved"]


def test_a_technical_high_does_not_latch() -> None:
    manager = AlarmManager(NO_DELAY)
    manager.present(alert(HIGH, 0, kind="technical"))
    assert names(manager.absent("p", "c", MINUTE_MS)) == ["resolved"]


def test_nobody_acknowledging_escalates_once_by_priority() -> None:
    manager = AlarmManager()
    manager.present(alert(HIGH, 0, condition="h"))
    manager.present(alert(MEDIUM, 0, condition="m"))
    manager.present(alert(LOW, 0, condition="l"))
    heard = {m: [c.alert.condition for c in manager.tick(m * MINUTE_MS)] for m in (29, 30, 59, 60, 600)}
    assert heard == {29: [], 30: ["h"], 59: [], 60: ["m"], 600: []}


def test_an_acknowledged_alert_does_not_escalate() -> None:
    manager = AlarmManager()
    manager.present(alert(HIGH, 0))
    manager.acknowledge("p", "c", "nurse", MINUTE_MS)
    assert manager.tick(600 * MINUTE_MS) == ()


def test_a_pause_is_visible_timed_and_ended_by_a_new_high() -> None:
    manager = AlarmManager()
    pause = manager.pause_audio("p", "nurse", 0, 2 * MINUTE_MS)
    assert manager.audio_pause("p", MINUTE_MS) == pause and pause.until_ms == 2 * MINUTE_MS
    assert manager.audio_pause("p", 2 * MINUTE_MS) is None
    manager.pause_audio("p", "nurse", 0, 2 * MINUTE_MS)
    manager.present(alert(MEDIUM, 1))
    assert manager.audio_pause("p", MINUTE_MS) is not None
    manager.present(alert(HIGH, 1))
    assert manager.audio_pause("p", MINUTE_MS) is None


def test_misuse_is_refused_with_a_reason() -> None:
    manager = AlarmManager()
    with pytest.raises(InputError, match="expected a person and 1 to 120000 ms, got actor 'nurse' and 120001 ms"):
        manager.pause_audio("p", "nurse", 0, 120_001)
    with pytest.raises(InputError, match="no alert stands for condition 'c'"):
        manager.acknowledge("p", "c", "nurse", 0)
    with pytest.raises(InputError, match="expected the name of a person"):
        manager.acknowledge("p", "c", "", 0)
    with pytest.raises(InputError, match="expected 'physiological' or 'technical', got 'odd'"):
        manager.present(replace(alert(HIGH, 0), kind="odd"))
    with pytest.raises(InputError, match="settle_ms must not be negative"):
        AlarmTimes(settle_ms=-1)


class NaiveCondition:
    """Slow twin for one condition that nobody acknowledges: keeps the whole history and looks back over it."""

    def __init__(self, settle_ms: int) -> None:
        self.settle_ms = settle_ms
        self.history: list[tuple[int, int]] = []  # (time, urgency; -1 = absent)
        self.shown = -1
        self.is_latched = False
        self.peak = -1

    def settled(self, t_ms: int) -> int:
        """The highest level that held at any moment of the last `settle_ms`."""
        highest = self.history[-1][1] if self.history else -1
        for (_, level), (end, _) in zip(self.history, self.history[1:], strict=False):
            if t_ms - end < self.settle_ms:
                highest = max(highest, level)
        return highest

    def event(self, t_ms: int, level: int) -> bool:
        """Whether people are called."""
        lasting = self.settled(t_ms)
        if lasting < 0:
            self.is_latched = self.is_latched or self.peak == 3
            if not self.is_latched:
                self.shown = self.peak = -1
        elif not self.is_latched:
            self.shown = min(self.shown, lasting)
        self.history.append((t_ms, level))
        if level >= 0:
            if level > self.shown:
                self.shown, self.peak, self.is_latched = level, max(self.peak, level), False
                return True
            self.is_latched = False
        return False


EVENTS = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from([None, INFO, LOW, MEDIUM, HIGH])), min_size=1, max_size=30
)


@given(EVENTS, st.sampled_from([0, 10, 30]))
def test_announcements_agree_with_a_twin_that_keeps_the_history(
    events: list[tuple[int, Priority | None]], settle_minutes: int
) -> None:
    manager = AlarmManager(AlarmTimes(settle_ms=settle_minutes * MINUTE_MS))
    naive = NaiveCondition(settle_minutes * MINUTE_MS)
    minute = 0
    for wait, priority in events:
        minute += wait
        if priority is None:
            manager.absent("p", "c", minute * MINUTE_MS)
            naive.event(minute * MINUTE_MS, -1)
            continue
        expected = naive.event(minute * MINUTE_MS, urgency(priority))
        assert manager.would_announce("p", "c", priority, minute * MINUTE_MS) == expected
        changes = manager.present(alert(priority, minute))
        assert any(change.change is Change.RAISED for change in changes) == expected


@given(EVENTS, st.lists(st.booleans(), min_size=30, max_size=30), st.sampled_from([0, 10, 30]))
def test_a_high_is_never_suppressed(
    events: list[tuple[int, Priority | None]], does_acknowledge: list[bool], settle_minutes: int
) -> None:
    manager = AlarmManager(AlarmTimes(settle_ms=settle_minutes * MINUTE_MS))
    minute = 0
    for (wait, priority), is_acknowledged in zip(events, does_acknowledge, strict=False):
        minute += wait
        t_ms = minute * MINUTE_MS
        had_high = any(a.priority is HIGH for a in manager.current("p"))
        manager.pause_audio("p", "nurse", t_ms, MINUTE_MS)
        if priority is None:
            manager.absent("p", "c", t_ms)
        else:
            changes = manager.present(alert(priority, minute))
            if priority is HIGH:
                assert any(a.priority is HIGH for a in manager.current("p"))
                assert had_high or any(c.change is Change.RAISED for c in changes)
                if any(c.change is Change.RAISED for c in changes):
                    assert manager.audio_pause("p", t_ms) is None
        manager.tick(t_ms)
        if is_acknowledged and manager.current("p"):
            manager.acknowledge("p", "c", "nurse", t_ms)
