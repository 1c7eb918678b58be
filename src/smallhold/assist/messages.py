"""Messages to a patient, on their own device: from staff, or from the machine where the policy allows it (A2).

A message is written to the journal before it is on its way, and stays open until the device says that it was shown.
What a machine wrote says so in its text wherever the policy asks for it.
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from smallhold.errors import InputError, PolicyError
from smallhold.records import Effect, Verdict

LONGEST_TEXT = 2_000
_DISCLOSURE = {
    "en": "This is an automatic message.",
    "fr": "Ceci est un message automatique.",
    "ru": "Это автоматическое сообщение.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message.

    Attributes:
        id: 32 hexadecimal digits.
        patient: To whom.
        t_ms: When it was written.
        sender: A person's name, or `smallhold`.
        text: Plain text, with line breaks at most.
        is_machine: A machine wrote it.
        about: What it is about, so that it is sent once; empty for what a person writes.
        seen_ms: When the device showed it; None as long as it has not.
    """

    id: str
    patient: str
    t_ms: int
    sender: str
    text: str
    is_machine: bool = False
    about: str = ""
    seen_ms: int | None = None


class Messages:
    """The messages of a ward.

    Args:
        write: Writes (patient, event) to the journal; raises JournalError when it cannot: nothing is sent then.
        deliver: Puts a message on its way, and may be called again for the same one: ids tell. What it raises does not
            undo the message, which stays open until it is seen.
    """

    def __init__(
        self, write: Callable[[str, Mapping[str, Any]], None], deliver: Callable[[Message], None] = lambda _: None
    ) -> None:
        self._write, self._deliver = write, deliver
        self._messages: dict[str, Message] = {}

    def recall(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take in events that are on record already.

        Raises:
            InputError: an event cannot be read.
        """
        for event in events:
            self._apply(event)

    def send(self, patient: str, sender: str, text: str, now_ms: int) -> Message:
        """A person writes to a patient.

        Raises:
            InputError: nobody is named, or the text is empty, too long or holds control characters.
            JournalError: it could not be journalled.
        """
        if not sender:
            raise InputError("message: expected the name of whoever writes it")
        return self._send(patient, sender, text, now_ms, is_machine=False)

    def send_by_machine(
        self, patient: str, text: str, now_ms: int, verdict: Verdict, language: str = "en", about: str = ""
    ) -> Message | None:
        """The machine writes to a patient, as far as the policy lets it.

        Args:
            patient: To whom.
            text: In `language`.
            now_ms: UTC.
            verdict: Of this A2 action.
            language: Of the disclosure.
            about: See `Message`.

        Returns:
            What was sent; None when a person has to confirm it first, it is forbidden, or it was sent before.

        Raises:
            PolicyError: the verdict is about another action, or there is no disclosure in this language.
            JournalError: it could not be journalled.
        """
        if verdict.action.value != "A2":
            raise PolicyError(f"message: expected a verdict on A2, got one on {verdict.action}")
        if verdict.effect not in (Effect.AUTO, Effect.NOTIFY_WITH_VETO):
            return None
        if about and any(held.about == about for held in self.of(patient)):
            return None
        if {"disclose_ai", "label_ai_content"} & set(verdict.obligations):
            if language not in _DISCLOSURE:
                raise PolicyError(f"message: no words in {language!r} that say a machine wrote it")
            text = f"{text}\n{_DISCLOSURE[language]}"
        return self._send(patient, "smallhold", text, now_ms, is_machine=True, about=about)

    def seen(self, patient: str, message: str, now_ms: int) -> None:
        """The patient's device has shown it; said again it changes nothing.

        Raises:
            InputError: no such message of this patient.
            JournalError: it could not be journalled.
        """
        held = self._messages.get(message)
        if held is None or held.patient != patient:
            raise InputError(f"no message {message[:64]!r} of this patient")
        if held.seen_ms is None:
            self._record(patient, {"event": "seen", "id": message, "patient": patient, "t_ms": now_ms})

    def of(self, patient: str, *, is_open: bool = False) -> tuple[Message, ...]:
        """A patient's messages, oldest first; with `is_open` only those that were not seen."""
        return tuple(m for m in self._messages.values() if m.patient == patient and not (is_open and m.seen_ms))

    def _send(self, patient: str, sender: str, text: str, now_ms: int, *, is_machine: bool, about: str = "") -> Message:
        text = text.strip()
        bad = [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs") and c != "\n"]
        if not text or len(text) > LONGEST_TEXT or bad:
            raise InputError(
                f"message: expected 1 to {LONGEST_TEXT} characters, none of them a control, got {len(text)}"
                + (f" with U+{ord(bad[0]):04X}" if bad else "")
            )
        message = Message(
            id=secrets.token_hex(16),
            patient=patient,
            t_ms=now_ms,
            sender=sender,
            text=text,
            is_machine=is_machine,
            about=about,
        )
        self._record(patient, {"event": "sent", **asdict(message)})
        self._deliver(message)
        return message

    def _record(self, patient: str, event: Mapping[str, Any]) -> None:
        self._write(patient, event)
        self._apply(event)

    def _apply(self, event: Mapping[str, Any]) -> None:
        try:
            if event["event"] == "sent":
                message = Message(**{name: value for name, value in event.items() if name != "event"})
                self._messages[message.id] = message
            elif event["event"] == "seen":
                self._messages[event["id"]] = replace(self._messages[event["id"]], seen_ms=event["t_ms"])
            else:
                raise InputError(f"unknown message event {event['event']!r}")
        except (KeyError, TypeError) as error:
            raise InputError(f"a message event cannot be read: {error!r}") from error
