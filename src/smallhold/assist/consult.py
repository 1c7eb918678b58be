"""Asking the model at the end of every bin: what it is owed, what it answers, and what its silence means.

The specialist lives on the watchdog's thread alone. Readings wait in a queue and are handed over at the end of the
bin, each exactly once and in order; what a late or failing model has not taken in stays in the queue for next time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from smallhold.assist.alarm import Harm, Onset, priority_of
from smallhold.assist.specialist import Question, Specialist, Watchdog, validate_risk
from smallhold.errors import DeadlineError, DecisionError
from smallhold.records import ActionClass, Card, Proposal, Provenance, Risk

# Bins that a failing model may owe before it is given up: what it has not taken in must not fill the memory.
_MOST_MISSED_BINS = 168
# A resumed run must get the same answer again and may take its time over it.
_REPEAT_DEADLINE_SECONDS = 60.0


class Consultation:
    """One patient's specialist, as the bed sees it.

    Attributes:
        is_answering: False from a failure until the next valid answer.
        has_abstained: The newest answer was an abstention.
    """

    def __init__(self, patient: str, specialist: Specialist, watchdog: Watchdog, question: Question) -> None:
        self.question = question
        self.is_answering = True
        self.has_abstained = False
        self._patient = patient
        self._specialist: Specialist | None = specialist
        self._watchdog = watchdog
        # (code, value, time) of a reading; ("", 0, time) for the end of a bin.
        self._owed: deque[tuple[str, float, int]] = deque()
        self._missed_bins = 0

    def observe(self, code: str, value: float, t_ms: int) -> None:
        """Keep an accepted reading for the specialist."""
        if self._specialist is not None:
            self._owed.append((code, value, t_ms))

    def close_bin(
        self, t_ms: int, provenance: Provenance, *, recorded_error: str | None, is_repeat: bool
    ) -> Risk | str:
        """Put the bin that ends at `t_ms` to the specialist.

        Args:
            t_ms: The end of the bin.
            provenance: Goes onto the answer.
            recorded_error: A failure that the journal tells of: it is repeated and the specialist not asked.
            is_repeat: The journal already has this bin; the deadline is generous then.

        Returns:
            The validated answer, or why there is none.
        """
        specialist = self._specialist
        if specialist is None:
            return "the model was given up"
        self._owed.append(("", 0.0, t_ms))
        answer: Risk | str
        if recorded_error is not None:
            answer = recorded_error
        else:
            try:
                answer = self._ask(specialist, t_ms, provenance, _REPEAT_DEADLINE_SECONDS if is_repeat else None)
            except DeadlineError as late:
                answer = str(late)
            except DecisionError as failure:
                answer = f"failed: {failure}"
        self.is_answering = isinstance(answer, Risk)
        if isinstance(answer, Risk):
            self.has_abstained, self._missed_bins = answer.has_abstained, 0
            return answer
        self._missed_bins += 1
        if self._missed_bins > _MOST_MISSED_BINS:
            self._specialist, self._owed = None, deque()
        return answer

    def explain(self, provenance: Provenance, deadline_seconds: float) -> Card | str:
        """What the newest answer rests on, or why nobody knows."""
        if self._specialist is None:
            return "the model was given up"
        try:
            return replace(self._watchdog.run(self._specialist.explain, deadline_seconds), provenance=provenance)
        except DecisionError as error:
            return str(error)

    def suggest(self, risk: Risk, *, earlier: Proposal | None, is_degraded: bool) -> Proposal | None:
        """What the model suggests from now on.

        Args:
            risk: Its newest answer.
            earlier: What it has suggested so far; only a confident answer takes it back.
            is_degraded: Goes onto the suggestion.

        Returns:
            MEDIUM at or above the alert threshold, abstained or not: being unsure there never calls people less.
            Below it the earlier suggestion when the model abstains, else None.
        """
        question = self.question
        p = risk.probabilities[question.alarm_choice]
        if p < question.alert_threshold:
            return earlier if risk.has_abstained else None
        words = question.wording.format(risk=p, threshold=question.alert_threshold, hour=risk.horizon_h)
        return Proposal(
            patient=self._patient,
            t_ms=risk.t_ms,
            condition=question.condition,
            action=ActionClass.A1,
            priority=priority_of(Harm.DEATH_OR_IRREVERSIBLE, Onset.DELAYED),
            source="model",
            has_abstained=risk.has_abstained,
            is_degraded=is_degraded,
            rationale=f"The model is unsure, please look: {words}" if risk.has_abstained else words,
            provenance=risk.provenance,
        )

    def _ask(self, specialist: Specialist, t_ms: int, provenance: Provenance, deadline_seconds: float | None) -> Risk:
        owed, question = self._owed, self.question

        def catch_up_and_decide() -> Risk:
            while owed:
                code, value, owed_ms = owed[0]
                if code:
                    specialist.observe(code, value, owed_ms)
                else:
                    specialist.close_bin(owed_ms)
                owed.popleft()  # only now: a call that raised is made again at the next bin
                if not code and owed_ms == t_ms:
                    break  # readings that arrive while a late call still runs belong to the next bin
            return specialist.decide(t_ms, provenance)

        risk = self._watchdog.run(catch_up_and_decide, deadline_seconds)
        validate_risk(risk, question.choices, task=question.task, field=question.field, patient=self._patient)
        return replace(risk, provenance=provenance)
