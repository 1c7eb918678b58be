"""A bed's SDC device, fed from the journal of a ward that another process runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.assist import live
from smallhold.assist.gate import Limits
from smallhold.assist.interop.cds_view import JournalView
from smallhold.assist.interop.sdc_provider import BedProvider
from smallhold.assist.sources.intake import one_line
from smallhold.assist.step import Step
from smallhold.device.journal_store import read_entries
from smallhold.errors import InputError, JournalError


class JournalBed:
    """Shows on an SDC device what a ward journals about one patient.

    Args:
        journal: The ward's journal.
        provider: Started; the device.
        limits: The sector's units, into which readings are converted.
        key: The device's key, which opens what is sealed.
    """

    def __init__(
        self, journal: Path, provider: BedProvider, limits: Limits, key: Ed25519PrivateKey | None = None
    ) -> None:
        self._journal, self._provider, self._limits, self._key = journal, provider, limits, key
        self._view = JournalView(journal, key)
        self._next_seq = 0
        self._newest: dict[str, tuple[int, float]] = {}

    def follow(self, stop: threading.Event, *, every_seconds: float = 0.5, on_error: Callable[[str], None]) -> None:
        """Look again and again until `stop` is set; a journal that cannot be read is tried again."""
        while True:
            try:
                self.look()
            except JournalError as error:
                on_error(one_line(error))
            if stop.wait(every_seconds):
                return

    def look(self) -> int:
        """Show what was journalled since; of a signal the newest reading alone. Returns how many were shown.

        Raises:
            JournalError: the journal cannot be read.
        """
        begun, newest = self._next_seq, dict[str, tuple[int, float]]()
        for entry, payload in read_entries(self._journal, self._next_seq, key=self._key):
            if payload is not None and entry.kind in (live.READING, live.STEP):
                try:
                    found = self._reading(entry.kind, payload)
                except (ValueError, KeyError, TypeError) as error:
                    raise JournalError(f"journal entry {entry.seq} ({entry.kind}) cannot be read: {error!r}") from error
                if found is not None:
                    code, value, t_ms = found
                    newest[code] = max(newest.get(code, (t_ms, value)), (t_ms, value))
            self._next_seq = entry.seq + 1
        shown = sum(self._provider.show_reading(code, value, t_ms) for code, (t_ms, value) in newest.items())
        if self._next_seq > begun:
            picture = self._view.picture(self._provider.patient)
            if picture is not None:
                scores = picture.scores
                for score in () if scores is None else scores.scores:
                    self._provider.show_score(score, 0 if scores is None else scores.t_ms)
                self._provider.show_alerts(picture.alerts, 0 if scores is None else scores.t_ms)
        return shown

    def _reading(self, kind: str, payload: bytes) -> tuple[str, float, int] | None:
        """Parameter, value in its canonical unit, time; None for another patient and for what the gate refused."""
        if kind == live.READING:
            item = json.loads(payload)
            if item["patient"] != self._provider.patient or item["reasons"]:
                return None
            code, value, unit, t_ms = item["code"], item["value"], item["unit"], item["t_measured_ms"]
        else:
            step = Step.from_payload(payload)
            seen = step.observation
            is_ours = step.patient == self._provider.patient and step.gate is not None and step.gate.is_accepted
            if seen is None or not is_ours:
                return None
            code, value, unit, t_ms = seen.code, seen.value, seen.unit, seen.t_measured_ms
        try:
            return code, self._limits.to_canonical(code, float(value), unit), t_ms
        except InputError:
            return None
