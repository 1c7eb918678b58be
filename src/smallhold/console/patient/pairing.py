"""Which device may speak for which patient: a short-lived code, once, makes a session that can be revoked.

Staff ask for a code and show it at the bed; the patient types it on their device. Neither codes nor session tokens are
kept, only their SHA-256 digests: whoever reads the file cannot speak for anybody.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from smallhold.console.patient.rate import RateLimit
from smallhold.device.durable_file import write_durably
from smallhold.device.journal import Journal
from smallhold.device.wall_clock import wall_ms
from smallhold.errors import InputError, SmallholdError
from smallhold.records import canonical_json

#: Without 0, 1, I, L, O and U, which people mistake for others or for words.
ALPHABET = "23456789ABCDEFGHJKMNPQRSTVWXYZ"
CODE_LENGTH = 9  # 44 bits: at 50 wrong codes in ten minutes a guess in ten minutes is right once in 10^11
LANGUAGES = ("en", "fr", "ru")

_MINUTE_MS = 60_000
_DAY_MS = 24 * 60 * _MINUTE_MS
_LONGEST_MS = 30 * _DAY_MS
_LONGEST_IDLE_MS = 7 * _DAY_MS
_KEEP_USE_MS = 60 * _MINUTE_MS  # how exactly the last use is on the disk


class PairingRefused(SmallholdError):  # noqa: N818 - the patient asks for another code
    """The code is unknown, used, replaced or too old; it does not say which."""

    def __init__(self) -> None:
        super().__init__("pairing: this code is not valid", hint="ask staff for a new one")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A device that speaks for one patient.

    Attributes:
        id: SHA-256 of the token.
        patient: For whom.
        begun_ms: When it was paired, UTC.
        used_ms: When it last asked; exact to an hour after a restart.
    """

    id: str
    patient: str
    begun_ms: int
    used_ms: int


@dataclass(frozen=True, slots=True)
class _Code:
    patient: str
    expires_ms: int


class Pairings:
    """Codes and sessions; may be used from any thread.

    Args:
        path: Where sessions and languages outlive the process; None: they do not.
        write: Told of (patient, event) before it counts: `offered`, `paired`, `ended`, `revoked`. See `journalled`.
        clock: UTC in milliseconds.

    Raises:
        InputError: the file cannot be read.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        write: Callable[[str, Mapping[str, Any]], None] = lambda _patient, _event: None,
        clock: Callable[[], int] = wall_ms,
    ) -> None:
        self._path, self._write, self._clock = path, write, clock
        self._lock = threading.Lock()
        self._codes: dict[str, _Code] = {}
        self._sessions: dict[str, Session] = {}
        self._languages: dict[str, str] = {}
        self._by_address = RateLimit(5, 5 * 60)
        self._by_anybody = RateLimit(50, 10 * 60)
        self._kept_ms: dict[str, int] = {}
        if path is not None and path.exists():
            self._load(path)

    def new_pairing(self, patient: str, *, actor: str = "", minutes: int = 10) -> str:
        """A code for a patient; it replaces the one before. For staff, who see to it that the right person gets it.

        Args:
            patient: Pseudonymous identifier.
            actor: Who asks for it.
            minutes: How long it is good for, 1 to 60.

        Raises:
            InputError: no patient, or an impossible time.
            JournalError: it could not be journalled; there is no code then.
        """
        if not patient or not 1 <= minutes <= 60:
            raise InputError(f"pairing: expected a patient and 1 to 60 minutes, got {minutes} minutes")
        self._write(patient, {"event": "offered", "actor": actor, "t_ms": self._clock()})
        code = "".join(secrets.choice(ALPHABET) for _ in range(CODE_LENGTH))
        with self._lock:
            now = self._clock()
            alive = {key: held for key, held in self._codes.items() if held.expires_ms > now}
            self._codes = {key: held for key, held in alive.items() if held.patient != patient}
            self._codes[_digest(code)] = _Code(patient, now + minutes * _MINUTE_MS)
        return f"{code[:3]}-{code[3:6]}-{code[6:]}"

    def redeem(self, code: str, address: str) -> tuple[str, Session]:
        """Turn a code into a session, once.

        Args:
            code: As typed: case, blanks and hyphens do not matter.
            address: Of the device, for the limit of wrong codes.

        Returns:
            The token, which only the device keeps, and the session.

        Raises:
            PairingRefused: not a code that is good now.
            RateLimited: too many wrong codes from this address, or from everybody.
            JournalError: it could not be journalled; the code is used up all the same.
        """
        self._by_address.check(address, "pairing")
        self._by_anybody.check("", "pairing")
        typed = "".join(c for c in code.upper()[:64] if c in ALPHABET)
        with self._lock:
            held = self._codes.pop(_digest(typed), None)
        now = self._clock()
        if held is None or held.expires_ms <= now:
            self._by_address.note(address)
            self._by_anybody.note("")
            raise PairingRefused
        token = secrets.token_hex(32)
        session = Session(id=_digest(token), patient=held.patient, begun_ms=now, used_ms=now)
        self._write(held.patient, {"event": "paired", "session": session.id[:16], "t_ms": now})
        with self._lock:
            self._sessions[session.id] = session
            self._save()
        return token, session

    def session(self, token: str) -> Session | None:
        """The session of a token, None when there is none, or it was revoked or is over."""
        with self._lock:
            held = self._sessions.get(_digest(token))
            if held is None:
                return None
            now = self._clock()
            if now - held.begun_ms >= _LONGEST_MS or now - held.used_ms >= _LONGEST_IDLE_MS:
                del self._sessions[held.id]
                self._save()
                return None
            used = self._sessions[held.id] = replace(held, used_ms=max(now, held.used_ms))
            if now - self._kept_ms.get(held.id, 0) >= _KEEP_USE_MS:
                self._kept_ms[held.id] = now
                self._save()
            return used

    def sessions(self, patient: str) -> tuple[Session, ...]:
        """The devices that speak for a patient."""
        with self._lock:
            return tuple(held for held in self._sessions.values() if held.patient == patient)

    def end(self, session: Session) -> None:
        """The device says good-bye."""
        self._drop([session.id], session.patient, "ended", "")

    def revoke(self, patient: str, actor: str) -> int:
        """Take all devices and the open code of a patient away: lost, discharged, or somebody else's.

        Returns:
            How many sessions there were.

        Raises:
            InputError: nobody is named.
            JournalError: it could not be journalled; they are gone all the same.
        """
        if not actor:
            raise InputError("revoke: expected the name of whoever does it")
        with self._lock:
            self._codes = {key: held for key, held in self._codes.items() if held.patient != patient}
            gone = [held.id for held in self._sessions.values() if held.patient == patient]
        self._drop(gone, patient, "revoked", actor)
        return len(gone)

    def csrf(self, token: str) -> str:
        """What a page of this session has to say with every change; it cannot be had from the cookie alone."""
        return hmac.new(bytes.fromhex(token), b"smallhold patient csrf", hashlib.sha256).hexdigest()

    def language(self, patient: str) -> str:
        """The language that the patient chose last, English before; for `Care(language=...)`."""
        with self._lock:
            return self._languages.get(patient, "en")

    def choose_language(self, patient: str, language: str) -> None:
        """The patient reads this language.

        Raises:
            InputError: the page has no words in it.
        """
        if language not in LANGUAGES:
            raise InputError(f"language: expected one of {', '.join(LANGUAGES)}, got {language[:16]!r}")
        with self._lock:
            if self._languages.get(patient, "en") != language:
                self._languages[patient] = language
                self._save()

    def _drop(self, ids: list[str], patient: str, event: str, actor: str) -> None:
        with self._lock:
            for id in ids:
                self._sessions.pop(id, None)
            self._save()
        told = {"event": event, "sessions": [id[:16] for id in ids], "t_ms": self._clock(), "actor": actor}
        self._write(patient, told)

    def _save(self) -> None:
        if self._path is None:
            return
        value = {
            "format": 1,
            "sessions": [asdict(held) for held in self._sessions.values()],
            "languages": self._languages,
        }
        try:
            write_durably(self._path, [canonical_json(value)])
        except OSError as error:
            raise InputError(f"{self._path}: sessions cannot be kept: {error.strerror or error}") from error

    def _load(self, path: Path) -> None:
        try:
            value = json.loads(path.read_bytes())
            if value["format"] != 1:
                raise ValueError("another format")
            self._sessions = {item["id"]: Session(**item) for item in value["sessions"]}
            self._languages = {str(name): str(language) for name, language in value["languages"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: the paired devices cannot be read: {error}", hint="remove the file; patients pair again"
            ) from error


def journalled(journal: Journal) -> Callable[[str, Mapping[str, Any]], None]:
    """What writes a ward's pairings to its journal, as entries of kind `pairing`."""

    def write(patient: str, event: Mapping[str, Any]) -> None:
        payload = canonical_json({"patient": patient, **event})
        journal.append("pairing", payload, patient=patient, must_checkpoint=journal.is_signing)

    return write


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
