"""What patients say of themselves on their own device: symptoms, and requests that a person look at a decision.

Both are journalled before they count, and call staff at the patient's bed until somebody has taken them on. A device
without a network sends the same thing again later: the id tells, and it counts once.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar, get_args

from smallhold.assist.alarm import Harm, Onset, priority_of
from smallhold.errors import InputError
from smallhold.records import ActionClass, Proposal, Provenance

LONGEST_TEXT = 4_000
SOURCE = "patient"

Urgency = Literal["emergency", "staff", "soon", "routine"]
Where = Literal["device", "server", "nowhere"]
#: Urgency -> what may follow if nobody comes, and how soon; somebody waits for an answer to a `routine` one too.
_HARM = {
    "emergency": (Harm.DEATH_OR_IRREVERSIBLE, Onset.IMMEDIATE),
    "staff": (Harm.REVERSIBLE, Onset.PROMPT),
    "soon": (Harm.REVERSIBLE, Onset.DELAYED),
    "routine": (Harm.MINOR, Onset.PROMPT),
}
R = TypeVar("R", "Intake", "Review")
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Triage:
    """What a model made of a text, as information for staff.

    Attributes:
        where: On the patient's device, on this machine, or nowhere: there was no model that reads the language.
        choice: Its answer; None when it abstained or was not asked.
        confidence: Probability of its likeliest answer, 0 to 1; 0 when it was not asked.
        has_abstained: It gave no answer that may be relied on.
        bundle: SHA-256 of the bundle's manifest, empty when it was not asked.
    """

    where: Where
    choice: str | None
    confidence: float
    has_abstained: bool
    bundle: str = ""

    def __post_init__(self) -> None:
        """Refuse what no model says: this may come from a device that somebody else has in hand."""
        if self.where not in get_args(Where):
            raise InputError(f"triage: where: expected one of {', '.join(get_args(Where))}, got {self.where[:64]!r}")
        if not 0 <= self.confidence <= 1:
            raise InputError(f"triage: confidence: expected 0 to 1, got {self.confidence}")
        if self.choice is not None and not 1 <= len(self.choice) <= 100:
            raise InputError(f"triage: choice: expected 1 to 100 characters, got {len(self.choice)}")
        if len(self.bundle) > 64:
            raise InputError("triage: bundle: expected a SHA-256 digest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """Symptoms that a patient described, handed over to staff.

    Attributes:
        id: 32 hexadecimal digits, made by the device.
        patient: Whose.
        t_ms: When it was written, by the device's clock; for people to read.
        received_ms: When it came here, on the ward's clock.
        language: Of the text as the patient said, two letters.
        text: As typed, without control characters.
        red_flags: Names of the rules that the text meets; found here, whatever the device says.
        triage: What the model said.
        urgency: The most urgent of what rules, model and patient say.
        taken_by: Who took it on; empty while it waits.
        taken_ms: When.
    """

    id: str
    patient: str
    t_ms: int
    received_ms: int
    language: str
    text: str
    red_flags: tuple[str, ...]
    triage: Triage
    urgency: Urgency
    taken_by: str = ""
    taken_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A request that a person look at what was decided.

    Attributes:
        id: 32 hexadecimal digits, made by the device.
        patient: Who asks.
        t_ms: When it came here, on the ward's clock.
        about: Trace of the decision; empty for all of them.
        text: What the patient says to it; may be empty.
        taken_by: Who answered; empty while it waits.
        taken_ms: When.
    """

    id: str
    patient: str
    t_ms: int
    about: str
    text: str
    taken_by: str = ""
    taken_ms: int | None = None


class SelfReports:
    """Intakes and review requests of a ward; a fold over journalled events.

    Args:
        write: Writes (kind, patient, event) to the journal, kinds `intake` and `review`; raises JournalError when it
            cannot: then nothing was reported, and the device goes on trying.
        on_new: Told of every new report when it is on record.
    """

    def __init__(
        self,
        write: Callable[[str, str, Mapping[str, Any]], None],
        on_new: Callable[[Intake | Review], None] = lambda _: None,
    ) -> None:
        self._write, self._on_new = write, on_new
        self._intakes: dict[str, Intake] = {}
        self._reviews: dict[str, Review] = {}

    def recall(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take in events that are on record already.

        Raises:
            InputError: an event cannot be read.
        """
        for event in events:
            self._apply(event)

    def report(self, intake: Intake) -> Intake:
        """A patient describes symptoms; the same id again changes nothing.

        Returns:
            What is on record.

        Raises:
            InputError: a malformed id, no text, or the id is another patient's.
            JournalError: it could not be journalled.
        """
        held = self._held(self._intakes, intake.id, intake.patient)
        if held is not None:
            return held
        if not 1 <= len(intake.text) <= LONGEST_TEXT:
            raise InputError(f"intake: expected 1 to {LONGEST_TEXT} characters of text, got {len(intake.text)}")
        event = {"event": "intake", **asdict(intake)}
        self._write("intake", intake.patient, event)
        self._apply(event)
        self._on_new(intake)
        return self._intakes[intake.id]

    def ask_review(self, review: Review) -> Review:
        """A patient asks for a person; the same id again changes nothing.

        Raises:
            InputError: a malformed id, too long a text, or the id is another patient's.
            JournalError: it could not be journalled.
        """
        held = self._held(self._reviews, review.id, review.patient)
        if held is not None:
            return held
        if len(review.text) > LONGEST_TEXT or len(review.about) > 64:
            raise InputError(f"review: expected at most {LONGEST_TEXT} characters, got {len(review.text)}")
        event = {"event": "review", **asdict(review)}
        self._write("review", review.patient, event)
        self._apply(event)
        self._on_new(review)
        return self._reviews[review.id]

    def take(self, patient: str, id: str, actor: str, now_ms: int) -> None:
        """A member of staff takes an intake or a review on; taken again it stays with the first.

        Raises:
            InputError: no such report of this patient, or nobody is named.
            JournalError: it could not be journalled.
        """
        if not actor:
            raise InputError("take: expected the name of whoever takes it on")
        kind = "intake" if id in self._intakes else "review"
        held = self._intakes.get(id) or self._reviews.get(id)
        if held is None or held.patient != patient:
            raise InputError(f"no report {id[:64]!r} of this patient")
        if held.taken_ms is None:
            event = {"event": "taken", "id": id, "patient": patient, "actor": actor, "t_ms": now_ms}
            self._write(kind, patient, event)
            self._apply(event)

    def intakes(self, patient: str) -> tuple[Intake, ...]:
        """What a patient described, oldest first."""
        return tuple(item for item in self._intakes.values() if item.patient == patient)

    def reviews(self, patient: str) -> tuple[Review, ...]:
        """What a patient asked a person to look at, oldest first."""
        return tuple(item for item in self._reviews.values() if item.patient == patient)

    def suggest(self, patient: str, now_ms: int, provenance: Provenance) -> Iterator[Proposal]:
        """A call for staff for every report that waits; it goes when somebody has taken it on."""
        for intake in self.intakes(patient):
            if intake.taken_ms is None:
                flags = f", red flags: {', '.join(intake.red_flags)}" if intake.red_flags else ""
                said = "abstains" if intake.triage.choice is None else f"says {intake.triage.choice}"
                model = "was not asked" if intake.triage.where == "nowhere" else said
                text = f"The patient describes symptoms ({intake.urgency}{flags}); the model {model}"
                yield _call(intake, _HARM[intake.urgency], text, now_ms, provenance)
        for review in self.reviews(patient):
            if review.taken_ms is None:
                text = "The patient asks a person to look at what was decided"
                yield _call(review, (Harm.MINOR, Onset.PROMPT), text, now_ms, provenance)

    @staticmethod
    def _held(reports: Mapping[str, R], id: str, patient: str) -> R | None:
        if not _ID.fullmatch(id):
            raise InputError("report: id: expected 32 hexadecimal digits")
        held = reports.get(id)
        if held is not None and held.patient != patient:
            raise InputError("report: id: it is taken")
        return held

    def _apply(self, event: Mapping[str, Any]) -> None:
        try:
            values = {name: value for name, value in event.items() if name != "event"}
            match event["event"]:
                case "intake":
                    triage = Triage(**values.pop("triage"))
                    flags = tuple(values.pop("red_flags"))
                    self._intakes[event["id"]] = Intake(**values, triage=triage, red_flags=flags)
                case "review":
                    self._reviews[event["id"]] = Review(**values)
                case "taken":
                    reports: dict[str, Any] = self._intakes if event["id"] in self._intakes else self._reviews
                    held = reports[event["id"]]
                    reports[event["id"]] = replace(held, taken_by=event["actor"], taken_ms=event["t_ms"])
                case other:
                    raise InputError(f"unknown report {other!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"a patient's report cannot be read: {error!r}") from error


def clean_text(text: str) -> str:
    """A text as people read it: line breaks stay, other controls and half characters become blanks.

    A call for help is never refused for a character in it.
    """
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n"))
    return "".join(c if c == "\n" or unicodedata.category(c)[0] != "C" else " " for c in text).strip()


def _call(
    report: Intake | Review, harm: tuple[Harm, Onset], text: str, now_ms: int, provenance: Provenance
) -> Proposal:
    return Proposal(
        patient=report.patient,
        t_ms=now_ms,
        condition=f"patient:{report.id}",
        action=ActionClass.A1,
        priority=priority_of(*harm),
        source=SOURCE,
        has_abstained=False,
        is_degraded=False,
        rationale=text,
        provenance=provenance,
    )
