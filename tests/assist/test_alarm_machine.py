"""Any sequence of acts: what must always hold, and that a restored state machine goes on as the original would."""

import json

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from smallhold.assist.alarm import AlarmManager, AlarmRules, AlarmTimes, Change, Inactivation, InactivationState
from smallhold.assist.alarm_inactivation import InactivationChange
from smallhold.assist.alarm_rules import CallLevel
from smallhold.errors import InputError
from smallhold.records import AlertState, Priority

from .small_ward import MINUTE_MS
from .test_alarm import alert

RULES = AlarmRules(
    AlarmTimes(settle_ms=3 * MINUTE_MS, acknowledged_high_ms=5 * MINUTE_MS, longest_alarm_pause_ms=10 * MINUTE_MS),
    (
        CallLevel("nurse"),
        CallLevel("charge nurse", 4 * MINUTE_MS, 8 * MINUTE_MS),
        CallLevel("physician", 9 * MINUTE_MS),
    ),
)
CONDITIONS = st.sampled_from(["a", "b"])
PRIORITIES = st.sampled_from(list(Priority))


class Alarms(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.manager = AlarmManager(RULES)
        self.minute = 0
        self.standing: dict[str, AlertState] = {}  # as the changes tell it
        self.off: set[tuple[str, str, InactivationState]] = set()  # as the events tell it
        self.unheard: set[str] = set()  # conditions whose call was withheld

    @property
    def t_ms(self) -> int:
        return self.minute * MINUTE_MS

    def both(self, act):
        """Do it on the manager and on one restored from what was written down; both must say the same."""
        twin = AlarmManager.restore(json.loads(json.dumps(self.manager.snapshot())), RULES)
        results = []
        for manager in (self.manager, twin):
            try:
                results.append((act(manager), None))
            except InputError as error:
                results.append(((), str(error)))
        assert results[0] == results[1]
        events = self.manager.take_events()
        assert events == twin.take_events() and self.manager.snapshot() == twin.snapshot()
        for event in events:
            assert event.inactivation.actor
            (self.off.add if event.change is InactivationChange.BEGAN else self.off.discard)(event.inactivation.key)
        changes = results[0][0] if isinstance(results[0][0], tuple) else ()
        for change in changes:
            condition = change.alert.condition
            if change.change is Change.RESOLVED:
                self.standing.pop(condition, None)
            else:
                self.standing[condition] = change.alert.state
            assert not (change.is_withheld and change.alert.priority is Priority.HIGH)
            if change.change in (Change.RESOLVED, Change.ACKNOWLEDGED) or change.is_announced:
                self.unheard.discard(condition)
            elif change.is_withheld:
                self.unheard.add(condition)
        return results[0]

    @rule(condition=CONDITIONS, priority=PRIORITIES, kind=st.sampled_from(["physiological", "technical"]))
    def present(self, condition, priority, kind):
        before = {a.condition for a in self.manager.current("p") if a.priority is Priority.HIGH}
        item = alert(priority, self.minute, condition=condition, kind=kind)
        changes, _ = self.both(lambda manager: manager.present(item))
        if priority is Priority.HIGH:
            highs = {a.condition for a in self.manager.current("p") if a.priority is Priority.HIGH}
            assert condition in highs
            is_called = any(c.is_announced and c.alert.priority is Priority.HIGH for c in changes)
            assert condition in before or is_called
            if is_called:
                quiet = {s for _, c, s in self.off if c in ("", condition)} - {InactivationState.AUDIO_OFF}
                assert not quiet

    @rule(condition=CONDITIONS)
    def absent(self, condition):
        self.both(lambda manager: manager.absent("p", condition, self.t_ms))

    @rule(condition=CONDITIONS, for_minutes=st.none() | st.integers(1, 6))
    def acknowledge(self, condition, for_minutes):
        for_ms = None if for_minutes is None else for_minutes * MINUTE_MS
        self.both(lambda manager: manager.acknowledge("p", condition, "nurse", self.t_ms, for_ms=for_ms))

    @rule(minutes=st.integers(0, 12))
    def wait(self, minutes):
        self.minute += minutes
        self.both(lambda manager: manager.tick(self.t_ms))
        assert not {
            condition
            for condition in self.unheard
            if not {InactivationState.ALARM_PAUSED, InactivationState.ALARM_OFF}
            & {s for _, c, s in self.off if c in ("", condition)}
        }, "a call that nothing withholds any more was not made"

    @rule(
        state=st.sampled_from(list(InactivationState)),
        condition=st.sampled_from(["", "a", "b"]),
        minutes=st.none() | st.integers(1, 12),
    )
    def inactivate(self, state, condition, minutes):
        until_ms = None if minutes is None else self.t_ms + minutes * MINUTE_MS
        wanted = Inactivation(state, "p", condition, "nurse", "why", self.t_ms, until_ms)
        self.both(lambda manager: manager.inactivate(wanted))

    @precondition(lambda self: self.off)
    @rule(data=st.data())
    def reactivate(self, data):
        _, condition, state = data.draw(st.sampled_from(sorted(self.off)))
        self.both(lambda manager: manager.reactivate("p", condition, state, "doctor", self.t_ms))

    @invariant()
    def the_log_tells_what_stands(self):
        assert {a.condition: a.state for a in self.manager.current("p")} == self.standing
        in_force = {item.key for item in self.manager.inactivations("p", self.t_ms)}
        assert in_force <= self.off  # one whose time is over is logged at the next tick

    @invariant()
    def a_high_is_always_seen_and_a_pause_is_all_that_quiets_it(self):
        for signals in self.manager.signals("p", self.t_ms):
            if signals.alert.priority is Priority.HIGH:
                assert signals.is_visible
                states = {item.state for item in signals.inactivations}
                is_paused = bool(states & {InactivationState.AUDIO_PAUSED, InactivationState.ALARM_PAUSED})
                assert signals.is_audible or is_paused or signals.alert.state is AlertState.ACKNOWLEDGED
                assert InactivationState.ALARM_OFF not in states


Alarms.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAlarms = Alarms.TestCase
