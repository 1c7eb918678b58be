"""A CDS Hooks 2.0 service over a ward: discovery, three hooks, feedback; without any HTTP.

What was shown to whom, and what they made of it, is journalled: kinds `cds-card` and `feedback`. A card is shown even
when that cannot be written; feedback that cannot be written is refused, so that the client keeps it.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from smallhold.assist.interop.cds_cards import Issued, alert_cards, conflict_cards, score_card
from smallhold.assist.interop.cds_request import (
    MOST_FEEDBACK,
    CdsError,
    read_accepted,
    read_drugs,
    read_overridden,
    read_prefetch,
    take_object,
    take_text,
    take_uuid,
)
from smallhold.assist.interop.cds_view import View
from smallhold.assist.interop.fhir_base import Dialect
from smallhold.assist.medication.board import CheckDrug
from smallhold.assist.sources.plain_text import parse_iso_ms
from smallhold.assist.sources.strict_json import MalformedError
from smallhold.device.journal import Journal, NewEntry
from smallhold.device.wall_clock import wall_ms
from smallhold.errors import JournalError
from smallhold.records import Feedback, Priority, Provenance, ScoreSet, canonical_json, to_json

CARD, FEEDBACK = "cds-card", "feedback"
#: Service id -> (hook, title, description).
SERVICES: dict[str, tuple[str, str, str]] = {
    "smallhold-patient-view": (
        "patient-view",
        "Alerts at the bed",
        "Standing alerts of a deterministic score and of a small model that runs beside it",
    ),
    "smallhold-order-select": (
        "order-select",
        "Conflicts of a drug being chosen",
        "Allergies and interactions of a drug with what is prescribed at the bed",
    ),
    "smallhold-order-sign": (
        "order-sign",
        "Conflicts of orders being signed, and urgent alerts",
        "Allergies and interactions of the orders, and alerts of high priority that stand",
    ),
}
VITALS_TEMPLATE = "Observation?patient={{context.patientId}}&category=vital-signs&_sort=-date&_count=50"
_REMEMBERED_CARDS = 10_000
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}", re.ASCII)  # FHIR's id

#: (patient as the client calls them, prefetched searchset, now) to scores; raises MalformedError where it is none.
ScoreVitals = Callable[[str, Mapping[str, Any], int], ScoreSet]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """A card that was shown."""

    about: str
    patient: str
    user: str
    t_ms: int


class CdsService:
    """Answers hooks and takes feedback; safe from any thread.

    Args:
        view: Where the state of beds comes from.
        journal: Takes `cds-card` and `feedback`; not one that another process writes.
        dialect: Of suggested resources.
        pseudonym: The client's patient id to ours; default the same.
        check_drug: Patient to the check of allergies and interactions; None where there is none.
        score_vitals: Scores prefetched readings of a patient who does not lie on the ward.
        clock: Milliseconds UTC.

    Raises:
        JournalError: what was shown before cannot be read.
    """

    def __init__(
        self,
        view: View,
        journal: Journal,
        dialect: Dialect,
        *,
        pseudonym: Callable[[str], str] = str,
        check_drug: Callable[[str], CheckDrug | None] = lambda _: None,
        score_vitals: ScoreVitals | None = None,
        clock: Callable[[], int] = wall_ms,
    ) -> None:
        self._view, self._journal, self._dialect = view, journal, dialect
        self._pseudonym, self._check_drug, self._score_vitals, self._clock = (
            pseudonym,
            check_drug,
            score_vitals,
            clock,
        )
        self._shown: OrderedDict[str, _Shown] = OrderedDict()
        self._lock = threading.Lock()
        self.unjournalled = 0
        for entry, payload in journal.entries(kind=CARD):
            if payload is not None:
                try:
                    value = json.loads(payload)
                    shown = {name: value[name] for name in ("about", "patient", "user", "t_ms")}
                    self._remember(value["card"], _Shown(**shown))
                except (ValueError, KeyError, TypeError) as error:
                    raise JournalError(f"journal entry {entry.seq} ({CARD}) cannot be read: {error!r}") from error

    def discovery(self) -> dict[str, Any]:
        """The answer to GET cds-services."""
        services = []
        for name, (hook, title, description) in SERVICES.items():
            service = {"hook": hook, "title": title, "description": description, "id": name}
            prefetch = {"patient": "Patient/{{context.patientId}}"}
            if hook == "patient-view" and self._score_vitals is not None:
                prefetch["vitals"] = VITALS_TEMPLATE
            services.append({**service, "prefetch": prefetch})
        return {"services": services}

    def call(self, service: str, request: Any) -> dict[str, Any]:
        """The answer to POST cds-services/ID.

        Args:
            service: Its id.
            request: The parsed JSON body.

        Raises:
            CdsError: 404 unknown service, 400 malformed, 412 the patient is unknown and what would be needed was not
                prefetched.
            SmallholdError: the ward cannot be read.
        """
        if service not in SERVICES:
            raise CdsError(404, "no such service")
        hook = SERVICES[service][0]
        body = take_object(request, "body")
        if body.get("hook") != hook:
            raise CdsError(400, f"hook: expected {hook}")
        instance = take_uuid(body.get("hookInstance"), "hookInstance")
        context = take_object(body.get("context"), "context")
        user, external = take_text(context, "userId"), take_text(context, "patientId")
        if not _ID.fullmatch(external):
            raise CdsError(400, "context.patientId: expected the id of a Patient")
        prefetch = read_prefetch(body.get("prefetch"), external)
        patient = self._pseudonym(external)
        if hook == "patient-view":
            issued = self._patient_view(patient, external, instance, prefetch)
        else:
            issued = self._orders(patient, instance, context, hook)
        self._journal_cards(issued, patient, user, instance, hook)
        return {"cards": [one.card for one in issued]}

    def feedback(self, service: str, request: Any) -> int:
        """Take feedback, all of it or none.

        Args:
            service: Id of the service that showed the cards.
            request: The parsed JSON body.

        Returns:
            How many were taken.

        Raises:
            CdsError: 404 unknown service or card, 400 malformed.
            JournalError: it could not be written; the client should send it again.
        """
        if service not in SERVICES:
            raise CdsError(404, "no such service")
        items = take_object(request, "body").get("feedback")
        if not isinstance(items, list) or not 1 <= len(items) <= MOST_FEEDBACK:
            raise CdsError(400, f"feedback: expected a list of 1 to {MOST_FEEDBACK}")
        entries = [self._feedback_entry(take_object(item, f"feedback[{n}]"), n) for n, item in enumerate(items)]
        self._journal.append_all(entries)
        return len(entries)

    def _patient_view(self, patient: str, external: str, instance: str, prefetch: Mapping[str, Any]) -> list[Issued]:
        picture = self._view.picture(patient)
        if picture is not None:
            return alert_cards(picture, instance, self._dialect)
        if self._score_vitals is None:
            return []
        vitals = prefetch.get("vitals")
        if vitals is None:
            raise CdsError(412, "the patient does not lie on this ward: expected prefetch.vitals")
        try:
            scores = self._score_vitals(external, take_object(vitals, "prefetch.vitals"), self._clock())
        except MalformedError as error:
            raise CdsError(400, f"prefetch.vitals: {error}") from error
        card = score_card(scores, instance)
        return [] if card is None else [card]

    def _orders(self, patient: str, instance: str, context: Mapping[str, Any], hook: str) -> list[Issued]:
        drugs = read_drugs(context, only_selected=hook == "order-select")
        picture = self._view.picture(patient)
        check = self._check_drug(patient)
        issued: list[Issued] = []
        if check is not None:
            standing = () if picture is None else picture.drugs
            for drug in drugs:
                others = tuple(sorted({*standing, *drugs} - {drug}))
                issued += conflict_cards(patient, drug, list(check(drug, others)), instance)
        if picture is not None and hook == "order-sign":
            issued += alert_cards(picture, instance, self._dialect, least=Priority.HIGH)
        return issued

    def _journal_cards(self, issued: Iterable[Issued], patient: str, user: str, instance: str, hook: str) -> None:
        now_ms, entries = self._clock(), []
        with self._lock:
            for one in issued:
                card = one.card["uuid"]
                if card in self._shown:  # the same request again
                    continue
                shown = _Shown(about=one.about, patient=patient, user=user, t_ms=now_ms)
                self._remember(card, shown)
                value = {"card": card, "hook": hook, "hook_instance": instance, "summary": one.card["summary"]}
                value |= {"about": one.about, "patient": patient, "user": user, "t_ms": now_ms}
                entries.append(NewEntry(CARD, canonical_json(value), patient))
        if entries:
            try:
                self._journal.append_all(entries)
            except JournalError:
                self.unjournalled += len(entries)  # an alert is shown all the same

    def _remember(self, card: str, shown: _Shown) -> None:
        self._shown[card] = shown
        while len(self._shown) > _REMEMBERED_CARDS:
            self._shown.popitem(last=False)

    def _feedback_entry(self, item: Mapping[str, Any], number: int) -> NewEntry:
        where = f"feedback[{number}]"
        card = take_uuid(item.get("card"), f"{where}.card")
        with self._lock:
            shown = self._shown.get(card)
        if shown is None:
            raise CdsError(404, f"{where}.card: no such card was shown by this service")
        outcome = item.get("outcome")
        if outcome not in ("accepted", "overridden"):
            raise CdsError(400, f"{where}.outcome: expected accepted or overridden")
        stamp = item.get("outcomeTimestamp")
        t_ms = parse_iso_ms(stamp) if isinstance(stamp, str) else None
        if t_ms is None:
            raise CdsError(400, f"{where}.outcomeTimestamp: expected a time with its zone")
        if outcome == "accepted":
            reason = read_accepted(item.get("acceptedSuggestions"), where)
        else:
            reason = read_overridden(item.get("overrideReason"), where)
        record = Feedback(
            subject=shown.about,
            response="accept" if outcome == "accepted" else "override",
            reason=reason,
            actor=shown.user,
            t_ms=t_ms,
            response_time_ms=max(0, t_ms - shown.t_ms),
            provenance=Provenance(trace_id=uuid.UUID(card).hex),
        )
        return NewEntry(FEEDBACK, canonical_json(to_json(record)), shown.patient)
