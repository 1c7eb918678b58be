"""Sends what is in an outbox over MLLP, and follows a ward's journal for what goes into it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.assist import live
from smallhold.assist.alarm_condition import AlarmChange, Change
from smallhold.assist.alarm_log import KIND as ALARM
from smallhold.assist.alarm_log import AlarmEntry
from smallhold.assist.interop.alarm_outbox import AlarmOutbox, Pending
from smallhold.assist.sources.intake import one_line
from smallhold.assist.sources.mllp_client import MllpClient
from smallhold.assist.step import Step
from smallhold.device.journal_store import read_entries
from smallhold.errors import EndpointError, InputError, JournalError
from smallhold.records import Alert, AlertState

_IDLE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 30.0
_MOST_ERRORS = 5


@dataclass(frozen=True, slots=True)
class SenderStatus:
    """How sending is doing.

    Attributes:
        sent: Acknowledged since the start.
        waiting: In the queue.
        refused: That the receiver would not take, kept apart.
        last_error: What went wrong last, empty when the last message went well.
    """

    sent: int
    waiting: int
    refused: int
    last_error: str


class AlarmSender:
    """Sends one message after another on a thread of its own, each until it is answered.

    CA and AA end a message. CR and AR refuse it for good: it is kept apart. CE and AE are tried again, five times at
    growing intervals, then it is kept apart: the alarms behind it must not wait for ever. Without an answer the same
    bytes are sent again without end.

    Args:
        outbox: What is to be sent.
        client: The connection; closed at the end.
        first_pause_seconds: After the first failure; it doubles up to 30 s.
        answer_seconds: Longest wait for one answer, and for `stop`.
    """

    def __init__(
        self,
        outbox: AlarmOutbox,
        client: MllpClient,
        *,
        first_pause_seconds: float = 0.5,
        answer_seconds: float = 10.0,
    ) -> None:
        self._outbox, self._client, self._first_pause_seconds = outbox, client, first_pause_seconds
        self._answer_seconds = answer_seconds
        self._stop = threading.Event()
        self._sent, self._error = 0, ""
        self._thread = threading.Thread(target=self._run, name="alarm-sender", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self, deadline_seconds: float) -> None:
        """End after the message that is under way, or in that time; what was not acknowledged stays in the outbox."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(deadline_seconds)

    def status(self) -> SenderStatus:
        """How it is doing; safe from any thread."""
        waiting, refused = self._outbox.counts()
        return SenderStatus(self._sent, waiting, refused, self._error)

    def _run(self) -> None:
        pause = self._first_pause_seconds
        while not self._stop.is_set():
            try:
                pending = self._outbox.oldest()
                if pending is None:
                    self._stop.wait(_IDLE_SECONDS)
                    continue
                is_over = self._send(pending)
            except (EndpointError, JournalError) as error:
                self._error, is_over = one_line(error), False
            if is_over:
                pause = self._first_pause_seconds
            else:
                self._stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        self._client.close()

    def _send(self, pending: Pending) -> bool:
        """Whether the message is done with."""
        code, text = self._client.ask(pending.body, pending.control_id, self._answer_seconds)
        if code in ("CA", "AA"):
            self._outbox.done(pending.seq)
            self._sent += 1
            self._error = ""
            return True
        self._error = one_line(f"answered {code or 'without MSA-1'}: {text}")
        if code in ("CR", "AR") or pending.attempts + 1 >= _MOST_ERRORS:
            self._outbox.refuse(pending.seq, self._error)
            return True
        self._outbox.tried(pending.seq)
        return False


class JournalAlarms:
    """Takes the alarms of a ward that another process runs from its journal, each once, into an outbox.

    The first time, alarms that stand already are told as `present`, and those that are over are not.

    Args:
        journal: The ward's journal.
        outbox: Remembers how far the journal was read.
        key: The device's key, which opens what is sealed.
    """

    def __init__(self, journal: Path, outbox: AlarmOutbox, key: Ed25519PrivateKey | None = None) -> None:
        self._journal, self._outbox, self._key = journal, outbox, key
        self._standing: dict[tuple[str, str], Alert] = {}
        self._next_seq = 0
        known = outbox.next_seq
        changes = self._read()
        if known is None:
            now = [AlarmChange(Change.RETURNED, alert.t_ms, alert) for alert in self._standing.values()]
            outbox.put(now, next_seq=self._next_seq)
        else:
            outbox.put([one for seq, one in changes if seq >= known], next_seq=self._next_seq)

    def follow(self, stop: threading.Event, *, every_seconds: float = 0.5, on_error: Callable[[str], None]) -> None:
        """Look again and again until `stop` is set; a journal or queue that fails is tried again."""
        while not stop.wait(every_seconds):
            try:
                self.look()
            except JournalError as error:
                on_error(one_line(error))

    def look(self) -> int:
        """Queue what was journalled since; returns how many messages.

        Raises:
            JournalError: the journal cannot be read or the queue not written; the next look takes it again.
        """
        before, standing = self._next_seq, dict(self._standing)
        try:
            changes = self._read()
            return self._outbox.put([one for _, one in changes], next_seq=self._next_seq) if changes else 0
        except JournalError:
            self._next_seq, self._standing = before, standing
            raise

    def _read(self) -> list[tuple[int, AlarmChange]]:
        found: list[tuple[int, AlarmChange]] = []
        for entry, payload in read_entries(self._journal, self._next_seq, key=self._key):
            if payload is not None:
                try:
                    changes = self._changes(entry.kind, payload)
                except (ValueError, KeyError, TypeError, InputError) as error:
                    raise JournalError(f"journal entry {entry.seq} ({entry.kind}) cannot be read: {error!r}") from error
                for change in changes:
                    self._keep(change.alert)
                    found.append((entry.seq, change))
            self._next_seq = entry.seq + 1
        return found

    def _changes(self, kind: str, payload: bytes) -> tuple[AlarmChange, ...]:
        if kind == live.STEP:
            return tuple(one for one in Step.from_payload(payload).changes if not one.is_withheld)
        if kind == ALARM:
            return AlarmEntry.from_payload(payload).changes
        if kind != live.STAFF:
            return ()
        value = json.loads(payload)
        if value.get("action") not in ("acknowledge", "discharge"):
            return ()
        patient, t_ms, actor = value["patient"], value["t_ms"], value["actor"]
        is_seen = value["action"] == "acknowledge"
        meant = [
            alert
            for (of, _), alert in self._standing.items()
            if of == patient and (not is_seen or alert.condition == value["condition"])
        ]
        state, change = (
            (AlertState.ACKNOWLEDGED, Change.ACKNOWLEDGED) if is_seen else (AlertState.RESOLVED, Change.RESOLVED)
        )
        return tuple(AlarmChange(change, t_ms, replace(alert, state=state), actor) for alert in meant)

    def _keep(self, alert: Alert) -> None:
        if alert.state is AlertState.RESOLVED:
            self._standing.pop((alert.patient, alert.id), None)
        else:
            self._standing[alert.patient, alert.id] = alert
