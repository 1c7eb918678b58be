"""A bundle's task as the model beside the bed: what `Specialist` asks for, on top of a local session."""

from __future__ import annotations

import time
from collections.abc import Callable

from smallhold.decide.local import FloatArray, LocalTask, TaskSession
from smallhold.errors import DecisionError
from smallhold.records import Card, Evidence, Provenance, Risk

_MOST_EVIDENCE = 4
#: Log-odds below which a parameter is not worth a line.
_LEAST_EFFECT = 0.02


class LocalSpecialist:
    """One patient's session.

    Args:
        patient: Pseudonymous identifier, put on every answer.
        local: The task of an opened bundle.
        static: What is known on admission; the session opens with it at the first call, so that this too happens
            where the caller keeps its model to a deadline.
        describe: (code, value) to the reading in words, for example `heart rate 118 /min`.
    """

    def __init__(
        self, patient: str, local: LocalTask, static: FloatArray, describe: Callable[[str, float], str]
    ) -> None:
        self._patient, self._local, self._static, self._describe = patient, local, static, describe
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
        """The parameters whose deletion lowers the risk most, newest readings in words."""
        risk = self._latest
        if risk is None:
            raise DecisionError("explain: nothing was decided yet")
        effects = self._session().effects(self._field.name)
        strongest = sorted(effects.items(), key=lambda item: -item[1])[:_MOST_EVIDENCE]
        evidence = tuple(
            Evidence(code=code, observations=(), text=self._text(code, risk.t_ms), effect=round(effect, 4))
            for code, effect in strongest
            if effect >= _LEAST_EFFECT
        )
        lines = [f"{risk.field} = {self._field.positive}: {risk.probabilities[self._field.positive]:.1%}"]
        lines += [f"{item.text} ({item.effect:+.2f} log-odds)" for item in evidence]
        return Card(
            patient=self._patient, t_ms=risk.t_ms, text="; ".join(lines), evidence=evidence, provenance=risk.provenance
        )

    def _session(self) -> TaskSession:
        if self._opened is None:
            self._opened = self._local.session(self._static)
        return self._opened

    def _text(self, code: str, now_ms: int) -> str:
        if code not in self._newest:
            return code
        value, t_ms = self._newest[code]
        age_min = max(0, now_ms - t_ms) // 60_000
        age = f"{age_min} min" if age_min < 60 else f"{age_min // 60} h"
        return f"{self._describe(code, value)}, {age} ago"
