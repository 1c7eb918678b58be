"""A bundle's task as the model beside the bed: what `Specialist` asks for, on top of a local session."""

from __future__ import annotations

import time
from collections.abc import Callable

from smallhold.assist.words import Words, load_words
from smallhold.decide.counterfactual import find_counterfactual
from smallhold.decide.deletion import Explanation, explain
from smallhold.decide.local import FloatArray, LocalTask, TaskSession
from smallhold.errors import DecisionError
from smallhold.records import Card, Counterfactual, DeletionCheck, Evidence, Provenance, Risk


class LocalSpecialist:
    """One patient's session.

    Args:
        patient: Pseudonymous identifier, put on every answer.
        local: The task of an opened bundle.
        static: What is known on admission; the session opens with it at the first call, so that this too happens
            where the caller keeps its model to a deadline.
        describe: (code, value) to the reading in words, for example `heart rate 118 /min`.
        words: In the same language; default: English.
    """

    def __init__(
        self,
        patient: str,
        local: LocalTask,
        static: FloatArray,
        describe: Callable[[str, float], str],
        words: Words | None = None,
    ) -> None:
        self._patient, self._local, self._static, self._describe = patient, local, static, describe
        self._words = words or load_words()
        self._opened: TaskSession | None = None
        self._field = local.task.fields[0]
        self._newest: dict[str, tuple[float, int]] = {}
        self._latest: Risk | None = None

    def observe(self, code: str, value: float, t_ms: int) -> None:
        """See `Specialist.observe`."""
        self._session().observe(code, value)
        self._newest[code] = (value, t_ms)

    def close_bin(self, t_ms: int) -> None:  # noqa: ARG002 - the session counts bins itself
        """See `Specialist.close_bin`."""
        self._session().close_bin()

    def decide(self, t_ms: int, provenance: Provenance) -> Risk:
        """See `Specialist.decide`."""
        begun = time.perf_counter()
        session = self._session()
        answer = session.decide().answers[self._field.name]
        self._latest = Risk(
            patient=self._patient,
            task=self._local.task.name,
            field=self._field.name,
            t_ms=t_ms,
            choice=answer.choice,
            probabilities=answer.probabilities,
            confidence=max(answer.probabilities.values()),
            has_abstained=answer.has_abstained,
            horizon_h=session.bins * self._local.task.signal.bin_minutes // 60,
            model="shipped",
            latency_ms=(time.perf_counter() - begun) * 1e3,
            provenance=provenance,
        )
        return self._latest

    def explain(self) -> Card:
        """The parameters that carry the risk, newest readings in words, and how they stood up to deletion."""
        risk = self._latest
        if risk is None:
            raise DecisionError("explain: nothing was decided yet")
        found = explain(self._session(), self._field.name)
        evidence = tuple(self._evidence(code, effect, risk.t_ms) for code, effect in found.cited.items())
        lines = [f"{risk.field} = {self._field.positive}: {risk.probabilities[self._field.positive]:.1%}"]
        lines += [f"{item.text} ({item.effect:+.2f} log-odds)" for item in evidence]
        if not found.is_verified:
            lines.append("not verified by deletion")
        return Card(
            patient=self._patient,
            t_ms=risk.t_ms,
            text="; ".join(lines),
            evidence=evidence,
            deletion=_deletion_check(found),
            counterfactual=self._counterfactual(found),
            provenance=risk.provenance,
        )

    def _counterfactual(self, found: Explanation) -> Counterfactual | None:
        if not found.is_alert:
            return None
        otherwise = find_counterfactual(self._session(), self._field.name, found)
        return Counterfactual(
            codes=tuple(change.code for change in otherwise.changes),
            values=tuple(change.value for change in otherwise.changes),
            risk=None if otherwise.probability is None else round(otherwise.probability, 4),
        )

    def _evidence(self, code: str, effect: float, now_ms: int) -> Evidence:
        value, t_ms = self._newest.get(code, (None, now_ms))
        return Evidence(
            code=code,
            observations=(),
            text=self._text(code, now_ms),
            effect=round(effect, 4),
            value=value,
            age_ms=None if value is None else max(0, now_ms - t_ms),
        )

    def _session(self) -> TaskSession:
        if self._opened is None:
            self._opened = self._local.session(self._static)
        return self._opened

    def _text(self, code: str, now_ms: int) -> str:
        if code not in self._newest:
            return code
        value, t_ms = self._newest[code]
        return self._words.ago(self._describe(code, value), now_ms - t_ms)


def _deletion_check(found: Explanation) -> DeletionCheck | None:
    if not found.cited:
        return None
    return DeletionCheck(
        margin=round(found.whole.margin, 4),
        margin_without=round(found.without.margin, 4),
        margin_alone=round(found.alone.margin, 4),
        risk_without=round(found.without.probability, 4),
        risk_alone=round(found.alone.probability, 4),
        is_necessary=found.is_necessary,
        is_sufficient=found.is_sufficient,
    )
