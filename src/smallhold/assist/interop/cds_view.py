"""What a CDS service reads of a ward: from its journal while another process runs it, or from the ward itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.assist import live
from smallhold.assist.alarm_log import KIND as ALARM
from smallhold.assist.alarm_log import AlarmEntry
from smallhold.assist.care import MEDICATION
from smallhold.assist.live import LiveWard
from smallhold.assist.medication.board import read_prescription
from smallhold.assist.step import Step
from smallhold.device.journal_store import read_entries
from smallhold.errors import InputError, JournalError
from smallhold.records import Alert, AlertState, Ask, Risk, ScoreSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One patient at this moment.

    Attributes:
        patient: Pseudonymous identifier.
        alerts: Those that are not resolved.
        scores: The newest, None before the first.
        risk: The model's newest answer.
        asks: Questions of the newest step that asked any.
        drugs: What is prescribed.
    """

    patient: str
    alerts: tuple[Alert, ...] = ()
    scores: ScoreSet | None = None
    risk: Risk | None = None
    asks: tuple[Ask, ...] = ()
    drugs: tuple[str, ...] = ()


class View(Protocol):
    """Where pictures come from."""

    def picture(self, patient: str) -> Picture | None:
        """A patient now, None when they do not lie on the ward.

        Raises:
            SmallholdError: the ward cannot be read at the moment.
        """


class LiveView:
    """A ward that runs in this process; safe from any thread but the ward's own.

    Args:
        ward: The ward.
        drugs: Patient to what is prescribed; called on the ward's thread.
        timeout_seconds: Longest wait for the ward.
    """

    def __init__(
        self,
        ward: LiveWard,
        *,
        drugs: Callable[[str], tuple[str, ...]] = lambda _: (),
        timeout_seconds: float = 2.0,
    ) -> None:
        self._ward, self._drugs, self._timeout_seconds = ward, drugs, timeout_seconds

    def picture(self, patient: str) -> Picture | None:
        """See `View`."""
        return self._ward.call(lambda: self._look(patient), self._timeout_seconds)

    def _look(self, patient: str) -> Picture | None:
        held = self._ward.beds.get(patient)
        if held is None:
            return None
        standing = tuple(a for a in held.bed.alarms.current(patient) if a.state is not AlertState.RESOLVED)
        return Picture(patient=patient, alerts=standing, scores=held.scores, risk=held.risk, drugs=self._drugs(patient))


class _Bed:
    __slots__ = ("alerts", "asks", "drugs", "risk", "scores")

    def __init__(self) -> None:
        self.alerts: dict[str, Alert] = {}
        self.scores: ScoreSet | None = None
        self.risk: Risk | None = None
        self.asks: tuple[Ask, ...] = ()
        self.drugs: dict[str, str] = {}


class JournalView:
    """A ward that another process runs, from what it journals; each look reads what was added since.

    Args:
        journal: The ward's journal.
        key: The device's key, which opens what is sealed.

    Raises:
        JournalError: it cannot be read.
    """

    def __init__(self, journal: Path, key: Ed25519PrivateKey | None = None) -> None:
        self._journal, self._key = journal, key
        self._next_seq = 0
        self._beds: dict[str, _Bed] = {}
        self._lock = threading.Lock()
        self._catch_up()

    def picture(self, patient: str) -> Picture | None:
        """See `View`."""
        with self._lock:
            self._catch_up()
            bed = self._beds.get(patient)
            if bed is None:
                return None
            return Picture(
                patient=patient,
                alerts=tuple(bed.alerts.values()),
                scores=bed.scores,
                risk=bed.risk,
                asks=bed.asks,
                drugs=tuple(sorted(set(bed.drugs.values()))),
            )

    def _catch_up(self) -> None:
        for entry, payload in read_entries(self._journal, self._next_seq, key=self._key):
            if payload is not None:
                try:
                    self._take(entry.kind, payload)
                except (ValueError, KeyError, TypeError, InputError) as error:
                    raise JournalError(f"journal entry {entry.seq} ({entry.kind}) cannot be read: {error!r}") from error
            self._next_seq = entry.seq + 1

    def _take(self, kind: str, payload: bytes) -> None:
        if kind == live.STEP:
            step = Step.from_payload(payload).shown()
            bed = self._beds.setdefault(step.patient, _Bed())
            bed.scores = step.scores
            bed.risk = step.risk if step.window is not None else bed.risk
            bed.asks = step.asks or bed.asks
            for change in step.changes:
                self._settle(bed, change.alert)
        elif kind == ALARM:
            alarm = AlarmEntry.from_payload(payload)
            for change in alarm.changes:
                self._settle(self._beds.setdefault(alarm.patient, _Bed()), change.alert)
        elif kind == live.STAFF:
            value = json.loads(payload)
            if value.get("action") == "discharge":
                self._beds.pop(value["patient"], None)
            elif value.get("action") == "acknowledge" and value["patient"] in self._beds:
                self._acknowledge(self._beds[value["patient"]], value["condition"])
        elif kind == MEDICATION:
            value = json.loads(payload)
            bed = self._beds.setdefault(value["patient"], _Bed())
            if value["event"] == "prescribed":
                item = read_prescription(value["prescription"])
                bed.drugs[item.id] = item.drug
            elif value["event"] == "stopped":
                bed.drugs.pop(value["id"], None)

    def _acknowledge(self, bed: _Bed, condition: str) -> None:
        for alert in [alert for alert in bed.alerts.values() if alert.condition == condition]:
            is_latched = alert.state is AlertState.LATCHED  # seen, and over: nothing is left to tell
            self._settle(bed, replace(alert, state=AlertState.RESOLVED if is_latched else AlertState.ACKNOWLEDGED))

    @staticmethod
    def _settle(bed: _Bed, alert: Alert) -> None:
        if alert.state is AlertState.RESOLVED:
            bed.alerts.pop(alert.id, None)
        else:
            bed.alerts[alert.id] = alert
