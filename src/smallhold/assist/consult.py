"""Asking the model at the end of every bin: what it is owed, what it answers, and what its silence means.

The specialist lives on the watchdog's thread alone. Readings wait in a queue and are handed over at the end of the
bin, each exactly once and in order; what a late or failing model has not taken in stays in the queue for next time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from statistics import median_low
from typing import Any

from smallhold.assist.alarm import Harm, Onset, priority_of
from smallhold.assist.specialist import Pending, Question, Specialist, Watchdog, validate_risk
from smallhold.assist.words import load_words
from smallhold.errors import DeadlineError, DecisionError
from smallhold.records import ActionClass, Card, Fact, Facts, Proposal, Provenance, Risk

# Bins that a failing model may owe before it is given up: what it has not taken in must not fill the memory.
_MOST_MISSED_BINS = 168
# A resumed run must get the same answer again and may take its time over it.
_REPEAT_DEADLINE_SECONDS = 60.0


class Consultation:
    """One patient's specialist, as the bed sees it.

    Args:
        patient: Pseudonymous identifier.
        specialist: The model.
        watchdog: Its thread and its deadline.
        question: What it is asked.
        thin_ms: The model gets each signal's median over stretches of so many milliseconds; 0: every reading.

    Attributes:
        is_answering: False from a failure until the next valid answer.
        has_abstained: The newest answer was an abstention.
        is_unexplained: Its answer will call people, and `begin_explaining` is still to be called.
        on_owed: Called for everything that the model is owed, in order: (code, value, time) of a reading, and
            ("", 0, time) for the end of a bin. Given to `recall` in a later process, the model stands where it stood.
    """

    def __init__(
        self, patient: str, specialist: Specialist, watchdog: Watchdog, question: Question, *, thin_ms: int = 0
    ) -> None:
        self.question = question
        self.is_answering = True
        self.has_abstained = False
        self.is_unexplained = False
        self._patient = patient
        self._specialist: Specialist | None = specialist
        self._watchdog = watchdog
        # (code, value, time) of a reading; ("", 0, time) for the end of a bin.
        self._owed: deque[tuple[str, float, int]] = deque()
        self._missed_bins = 0
        self._pending: Pending[Risk] | str | None = None
        self._answer: Risk | str | None = None
        self._card: Pending[Card] | None = None
        self._thin_ms = thin_ms
        # Per code: which stretch, the values in it, and the time of the newest.
        self._stretch: dict[str, tuple[int, list[float], int]] = {}
        self.on_owed: Callable[[str, float, int], None] | None = None

    def memory(self) -> dict[str, Any]:
        """Readings that are not owed yet, because their stretch is not over; JSON."""
        return {code: list(held) for code, held in self._stretch.items()}

    def recall(self, owed: Iterable[tuple[str, float, int]], memory: Mapping[str, Any]) -> None:
        """Owe the model again what an earlier process owed it; the next question makes it catch up.

        Args:
            owed: What `on_owed` was called with.
            memory: From `memory`, at the same moment.
        """
        self._owed.extend(owed)
        self._stretch = {code: (number, list(values), t_ms) for code, (number, values, t_ms) in memory.items()}

    def observe(self, code: str, value: float, t_ms: int) -> None:
        """Keep an accepted reading for the specialist."""
        if self._specialist is None:
            return
        if not self._thin_ms:
            self._owe(code, value, t_ms)
            return
        number = t_ms // self._thin_ms
        held = self._stretch.get(code)
        if held is not None and held[0] == number:
            held[1].append(value)
            self._stretch[code] = (number, held[1], t_ms)
            return
        if held is not None:
            self._owe(code, median_low(held[1]), held[2])
        self._stretch[code] = (number, [value], t_ms)

    def _owe(self, code: str, value: float, t_ms: int) -> None:
        self._owed.append((code, value, t_ms))
        if self.on_owed is not None:
            self.on_owed(code, value, t_ms)

    def owe_bin(self, t_ms: int) -> None:
        """The bin that ends at `t_ms` is over; the model learns of it with the next question."""
        for code, (_, values, newest_ms) in self._stretch.items():
            self._owe(code, median_low(values), newest_ms)
        self._stretch.clear()
        self._owe("", 0.0, t_ms)

    def close_bin(
        self, t_ms: int, provenance: Provenance, *, recorded_error: str | None, is_repeat: bool
    ) -> Risk | str:
        """Put the bin that ends at `t_ms` to the specialist and wait for the answer.

        Args:
            t_ms: The end of the bin.
            provenance: Goes onto the answer.
            recorded_error: A failure that the journal tells of: it is repeated and the specialist not asked.
            is_repeat: The journal already has this bin; the deadline is generous then.

        Returns:
            The validated answer, or why there is none.
        """
        if recorded_error is not None:
            if self._specialist is None:
                return "the model was given up"
            self.owe_bin(t_ms)
            return self._note(recorded_error)
        self.begin_bin(t_ms, provenance, deadline_seconds=_REPEAT_DEADLINE_SECONDS if is_repeat else None)
        return self.end_bin(provenance)

    def begin_bin(self, t_ms: int, provenance: Provenance, *, deadline_seconds: float | None = None) -> None:
        """Put the bin that ends at `t_ms` to the specialist without waiting; `end_bin` has the answer.

        Args:
            t_ms: The end of the bin.
            provenance: Of the question.
            deadline_seconds: Instead of the watchdog's own.
        """
        specialist, owed = self._specialist, self._owed
        if specialist is None:
            return
        self.owe_bin(t_ms)
        self._card, self.is_unexplained = None, False

        def catch_up_and_decide() -> Risk:
            while owed:
                code, value, owed_ms = owed[0]
                if code:
                    specialist.observe(code, value, owed_ms)
                else:
                    specialist.close_bin(owed_ms)
                owed.popleft()  # only now: a call that raised is made again at the next bin
                if not code and owed_ms == t_ms:
                    break  # readings that arrive while the call still runs belong to the next bin
            return specialist.decide(t_ms, provenance)

        try:
            self._pending = self._watchdog.start(catch_up_and_decide, deadline_seconds)
        except DeadlineError as refused:
            self._pending = str(refused)

    def has_answered(self, needs_card: Callable[[Risk], bool]) -> bool:
        """Whether what `begin_bin` asked is answered, has failed or had its time; never waits.

        Args:
            needs_card: Whether people will be called because of an answer, so that it is to be explained.
        """
        if self._answer is None:
            if isinstance(self._pending, Pending) and not self._pending.is_over:
                return False
            self._answer = self._take_answer()
            self.is_unexplained = (
                isinstance(self._answer, Risk) and self._specialist is not None and needs_card(self._answer)
            )
        return self._card is None or self._card.is_over

    def begin_explaining(self, deadline_seconds: float) -> None:
        """Ask for the explanation of an answer that `is_unexplained`, without waiting; `explain` has it.

        Args:
            deadline_seconds: An explanation that takes longer is left out.
        """
        self.is_unexplained = False
        if self._specialist is not None:
            with suppress(DeadlineError):  # still busy with a late call: `explain` says so
                self._card = self._watchdog.start(self._specialist.explain, deadline_seconds)

    def end_bin(self, provenance: Provenance) -> Risk | str:
        """The validated answer to what `begin_bin` asked, or why there is none; waits for the deadline at most.

        Args:
            provenance: Goes onto the answer.
        """
        if self._specialist is None:
            return "the model was given up"
        answer, self._answer = self._answer or self._take_answer(), None
        return self._note(replace(answer, provenance=provenance) if isinstance(answer, Risk) else answer)

    def _take_answer(self) -> Risk | str:
        pending, question = self._pending, self.question
        self._pending = None
        if not isinstance(pending, Pending):
            return pending or "the model was not asked"
        try:
            risk = pending.result()
            return validate_risk(
                risk, question.choices, task=question.task, field=question.field, patient=self._patient
            )
        except DeadlineError as late:
            return str(late)
        except DecisionError as failure:
            return f"failed: {failure}"

    def _note(self, answer: Risk | str) -> Risk | str:
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
        card, self._card = self._card, None
        if self._specialist is None:
            return "the model was given up"
        try:
            made = self._watchdog.run(self._specialist.explain, deadline_seconds) if card is None else card.result()
            return replace(made, provenance=provenance)
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
        words = load_words()
        wording = {} if words.knows_task(question.task) else {"wording": question.wording}
        facts = Facts(
            key="model",
            numbers={"risk": p, "threshold": question.alert_threshold, "hours": float(risk.horizon_h)},
            texts={"task": question.task, "condition": question.condition, **wording},
            items=(Fact(key="unsure"),) if risk.has_abstained else (),
        )
        return Proposal(
            patient=self._patient,
            t_ms=risk.t_ms,
            condition=question.condition,
            action=ActionClass.A1,
            priority=priority_of(Harm.DEATH_OR_IRREVERSIBLE, Onset.DELAYED),
            source="model",
            has_abstained=risk.has_abstained,
            is_degraded=is_degraded,
            rationale=words.sentence(facts),
            facts=facts,
            provenance=risk.provenance,
        )
