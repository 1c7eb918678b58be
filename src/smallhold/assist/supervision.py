"""A model under supervision: on trial in silent mode, or demoted because its ward drifted.

Either way the model is asked, its answers are journalled, and what it would have said is lived through by an alarm
state machine of its own that nobody hears. The floor knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from smallhold.assist.alarm import AlarmChange, AlarmManager, AlarmRules, AlarmTimes
from smallhold.assist.drift import DriftChange, DriftMonitor, DriftState
from smallhold.assist.gate import reason_id
from smallhold.assist.specialist import Question
from smallhold.records import Alert, Proposal, Provenance, Risk

# A reading that is refused for these says something about the ward; a resent or a late one does not.
_IMPOSSIBLE = frozenset({"not_finite", "unit", "range"})


class Supervision:
    """What watches the model of one patient.

    Args:
        times: Delays of the alarms that nobody hears.
        drift: Shared by all beds of the ward, or None.
        is_silent: The model is on trial and calls nobody.

    Attributes:
        suggestions: What the withheld models suggest now, by alarm condition.
    """

    def __init__(
        self, times: AlarmTimes | AlarmRules, drift: DriftMonitor | None = None, *, is_silent: bool = False
    ) -> None:
        self.is_silent = is_silent
        self.suggestions: dict[str, Proposal] = {}
        self._alarms = AlarmManager(times)
        self._conditions: dict[str, str] = {}  # every condition that was suggested, to its patient
        self._drift = drift
        self._follower = None if drift is None else drift.follow()
        self._has_tipped = False

    @property
    def is_withheld(self) -> bool:
        """True while the model may not call people."""
        return self.is_silent or (self._drift is not None and self._drift.is_drifted)

    @property
    def fault(self) -> str | None:
        """Why the model is demoted, on the bed that heard of it first: one alert for the ward, not one a bed."""
        if not self._has_tipped or self._drift is None or not self._drift.is_drifted:
            return None
        return self._drift.reason

    def observe(self, code: str, value: float) -> None:
        """An accepted reading, in its canonical unit."""
        if self._follower is not None:
            self._follower.observe(code, value)

    def refuse(self, code: str, reasons: Sequence[str]) -> None:
        """A refused reading, with the gate's reasons."""
        if self._follower is not None and not _IMPOSSIBLE.isdisjoint(map(reason_id, reasons)):
            self._follower.refuse(code)

    def close_bin(self, risk: Risk | None, question: Question | None) -> None:
        """The end of a bin, with the model's answer if it gave one."""
        if self._follower is None:
            return
        if risk is not None and question is not None:
            p = risk.probabilities[question.alarm_choice]
            self._follower.answer(p, is_alert=p >= question.alert_threshold, has_abstained=risk.has_abstained)
        self._follower.close_bin()

    def suggest(self, condition: str, proposal: Proposal | None) -> None:
        """What a withheld model suggests from now on, None for nothing."""
        if proposal is None:
            self.suggestions.pop(condition, None)
        else:
            self.suggestions[condition] = proposal

    def take_changes(self) -> tuple[DriftChange, ...]:
        """What changed on the ward since anybody's last step."""
        if self._drift is None:
            return ()
        changes = self._drift.take_changes()
        has_drifted = any(change.state is DriftState.DRIFTED for change in changes)
        self._has_tipped = self._drift.is_drifted and (self._has_tipped or has_drifted)
        return changes

    def follow(self, t_ms: int, provenance: Provenance) -> tuple[AlarmChange, ...]:
        """What the withheld suggestion does to the model's own alerts; gone, its condition settles as any other."""
        if not self.is_withheld:
            return ()
        changes: tuple[AlarmChange, ...] = ()
        for condition, proposal in self.suggestions.items():
            self._conditions[condition] = proposal.patient
            alert = Alert(
                id="",
                patient=proposal.patient,
                t_ms=t_ms,
                kind="physiological",
                condition=condition,
                priority=proposal.priority,
                source=proposal.source,
                is_degraded=proposal.is_degraded,
                message=proposal.rationale,
                facts=proposal.facts,
                provenance=provenance,
            )
            changes += self._alarms.present(alert)
        for condition, patient in self._conditions.items():
            if condition not in self.suggestions:
                changes += self._alarms.absent(patient, condition, t_ms)
        return changes + self._alarms.tick(t_ms)
