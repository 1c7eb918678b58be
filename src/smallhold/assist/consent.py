"""What each patient said to what the machine may do for them, on record and in force from the next decision on.

Three purposes stand apart: messages that a machine writes to the patient (A2), treatment that a machine proposes or
starts (A3, A4), and learning from the patient's records. Alerts to staff (A0, A1) depend on none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, get_args

from smallhold.errors import InputError

ConsentState = Literal["given", "unknown", "withheld"]
_STATES = get_args(ConsentState)


class Purpose(StrEnum):
    """What consent is about."""

    MESSAGES = "messages"
    TREATMENT = "treatment"
    LEARNING = "learning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """What one patient said last about one purpose.

    Attributes:
        state: `unknown` until anything was said.
        t_ms: When it was said, UTC; None for `unknown` by default.
        actor: Who said it: the patient, or staff who asked them.
    """

    state: ConsentState
    t_ms: int | None = None
    actor: str = ""


class Consents:
    """The consents of a ward; a fold over journalled events.

    Args:
        write: Writes (patient, event) to the journal; raises JournalError when it cannot.
    """

    def __init__(self, write: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._write = write
        self._said: dict[tuple[str, Purpose], Consent] = {}
        self._ids: set[tuple[str, str]] = set()

    def recall(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take in events that are on record already.

        Raises:
            InputError: an event cannot be read.
        """
        for event in events:
            self._apply(event)

    def say(
        self, patient: str, purpose: str, state: str, actor: str, now_ms: int, *, id: str = ""
    ) -> dict[Purpose, Consent]:
        """A patient gives or takes back their consent.

        Args:
            patient: Whose consent.
            purpose: One of `Purpose`.
            state: `given`, `unknown` or `withheld`.
            actor: Who says it.
            now_ms: UTC.
            id: Of the statement, where a device may send it twice; what came before is not repeated.

        Returns:
            All that the patient said.

        Raises:
            InputError: no such purpose or state, or nobody is named.
            JournalError: it could not be journalled. What was taken back counts as taken back all the same, what was
                given does not count.
        """
        if purpose not in tuple(Purpose):
            raise InputError(f"consent: purpose: expected one of {', '.join(Purpose)}, got {purpose[:64]!r}")
        if state not in _STATES:
            raise InputError(f"consent: state: expected one of {', '.join(_STATES)}, got {state[:64]!r}")
        if not actor:
            raise InputError("consent: expected the name of whoever says it")
        if not id or (patient, id) not in self._ids:
            event = {"patient": patient, "purpose": purpose, "state": state, "actor": actor, "t_ms": now_ms, "id": id}
            if state != "given":
                self._apply(event)  # first: what cannot be written is taken back all the same
            self._write(patient, event)
            self._apply(event)
        return self.of(patient)

    def of(self, patient: str) -> dict[Purpose, Consent]:
        """What a patient said about every purpose."""
        return {purpose: self._said.get((patient, purpose), Consent(state="unknown")) for purpose in Purpose}

    def said(self) -> Iterator[tuple[str, Purpose, Consent]]:
        """Everything that anybody said: patient, purpose, and what holds of it now."""
        return ((patient, purpose, consent) for (patient, purpose), consent in self._said.items())

    def allows(self, patient: str, purpose: Purpose) -> bool:
        """Whether the patient has given their consent: saying nothing gives none."""
        return self.of(patient)[purpose].state == "given"

    def _apply(self, event: Mapping[str, Any]) -> None:
        try:
            patient, purpose, state = event["patient"], Purpose(event["purpose"]), event["state"]
            if state not in _STATES:
                raise InputError(f"consent: unknown state {state!r}")
            said = Consent(state=state, t_ms=event["t_ms"], actor=event["actor"])
            self._said[patient, purpose] = said
            if event["id"]:
                self._ids.add((patient, event["id"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"a consent cannot be read: {error!r}") from error
