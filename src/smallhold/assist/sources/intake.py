"""What every source does with what it understood: check the text, know the code, drop repetitions, fill the inbox.

The gate judges the number; this judges the text around it. Everything that enters a record, a journal or a prompt is a
plain identifier or a number, so that no message can carry words to where words mean something.
"""

from __future__ import annotations

import math
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from smallhold.assist.sources.inbox import Inbox
from smallhold.assist.sources.pseudonyms import Pseudonyms
from smallhold.assist.sources.receipts import Settled
from smallhold.assist.sources.source import SourceStatus
from smallhold.device.wall_clock import wall_ms
from smallhold.errors import InputError
from smallhold.records import Observation, Provenance, sha256_hex

IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}", re.ASCII)
_UNIT = re.compile(r"[!-~]{0,32}", re.ASCII)  # UCUM is printable ASCII without blanks
_LATEST_MS = 4_102_444_800_000  # the year 2100: what is later is no time of measurement
_DUPLICATE = "duplicate"


class Codes(Protocol):
    """What a sector knows about the codes that others send."""

    system: str
    """The name of the sector's own code system."""

    def name_of(self, system: str, code: str) -> str | None:
        """The sector's own code; None for a signal that it does not know."""

    def unit_of(self, unit: str) -> str:
        """UCUM for a unit of another vocabulary that the sector knows; every other unit as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One reading as a message says it; nothing is believed yet.

    Attributes:
        id: Unique within the patient.
        patient: As the sender calls them.
        system: Code system as the message calls it, empty where the protocol has no word for it.
        code: What was measured.
        value: The number.
        unit: UCUM, or a unit that the sector's codes know.
        t_measured_ms: UTC.
        quality: `good`, or what the device says against it.
        device: Identifier of the device, empty when unknown.
    """

    id: str
    patient: str
    system: str
    code: str
    value: float
    unit: str
    t_measured_ms: int
    quality: str = "good"
    device: str = ""


@dataclass(slots=True)
class _Counts:
    is_connected: bool = False
    connected_since_ms: int | None = None
    received: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    last_received_ms: int | None = None
    last_error: str = ""


class Intake:
    """The one way into the inbox, and the keeper of a source's status. Safe from any thread.

    Args:
        name: Of the source.
        codes: What the sector knows.
        pseudonyms: Replaces patients' identifiers; None where the sender's are pseudonyms already.
        simulated: Whether no persons stand behind the readings; written into every record.
        clock: Milliseconds UTC.
        remembered_ids: How many of the newest identifiers are kept to recognise what is sent again.

    Raises:
        InputError: the name is not a plain identifier.
    """

    def __init__(
        self,
        name: str,
        codes: Codes,
        *,
        pseudonyms: Pseudonyms | None = None,
        simulated: bool = False,
        clock: Callable[[], int] = wall_ms,
        remembered_ids: int = 65_536,
    ) -> None:
        self.name = check_identifier("name of a source", name)
        self.clock = clock
        self._codes = codes
        self._pseudonyms = pseudonyms
        self._simulated = simulated
        self._remembered_ids = remembered_ids
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._inbox: Inbox | None = None
        self._counts = _Counts()
        self._lock = threading.Lock()

    def open(self, inbox: Inbox) -> None:
        """Say where readings go.

        Raises:
            InputError: the source was started before.
        """
        if self._inbox is not None:
            raise InputError(f"source {self.name}: started twice; make another one")
        self._inbox = inbox

    def offer(self, reading: Reading, settled: Settled | None = None) -> str | None:
        """Let one reading in.

        Args:
            reading: What a message says.
            settled: Called once, from any thread, when the sender may be told that it is done with: the reading is on
                record, was before, or was refused.

        Returns:
            None when it is in the inbox, or was before (a repetition is no fault of the sender); otherwise why not:
            `patient`, `id`, `unknown_code`, `value`, `unit`, `time`, `quality`.
        """
        reason, name, unit = self._judge(reading)
        with self._lock:
            self._counts.received += 1
            if reason is None:
                patient = self._patient_of(reading)
                is_repeated = (patient, reading.id) in self._seen
                if is_repeated:
                    self._count(_DUPLICATE)
                self._seen[patient, reading.id] = None
                if len(self._seen) > self._remembered_ids:
                    self._seen.popitem(last=False)
                now_ms = self.clock()
                self._counts.last_received_ms = now_ms
            else:
                self._count(reason)
        if reason is not None:
            if settled is not None:
                settled()
            return reason
        if self._inbox is None:
            raise InputError(f"source {self.name}: not started")
        if is_repeated:
            receipts = self._inbox.receipts
            if settled is not None and (receipts is None or not receipts.join(patient, reading.id, settled)):
                settled()
            return None
        self._inbox.put(
            Observation(
                id=reading.id,
                patient=patient,
                code=name,
                value=float(reading.value),
                unit=unit,
                t_measured_ms=reading.t_measured_ms,
                t_received_ms=now_ms,
                quality=reading.quality,
                device=_plain_device(reading.device),
                system=self._codes.system,
                provenance=Provenance(
                    trace_id=sha256_hex(f"{self.name}|{patient}|{reading.id}".encode())[:32],
                    simulated=self._simulated,
                ),
            ),
            settled,
        )
        return None

    def has_room(self, reading: Reading) -> bool:
        """Whether it would displace nothing in the inbox; a reading that will be refused always has room."""
        return (
            self._inbox is None or not is_identifier(reading.patient) or self._inbox.has_room(self._patient_of(reading))
        )

    def _patient_of(self, reading: Reading) -> str:
        return reading.patient if self._pseudonyms is None else self._pseudonyms(reading.patient)

    def _judge(self, reading: Reading) -> tuple[str | None, str, str]:
        """The first reason against it, the sector's own code, and the unit in UCUM."""
        name = self._codes.name_of(reading.system, reading.code)
        unit = self._codes.unit_of(reading.unit)
        reason = None
        if not is_identifier(reading.patient):
            reason = "patient"
        elif not is_identifier(reading.id):
            reason = "id"
        elif name is None:
            reason = "unknown_code"
        elif not is_number(reading.value):
            reason = "value"
        elif not _UNIT.fullmatch(unit):
            reason = "unit"
        elif type(reading.t_measured_ms) is not int or not 0 <= reading.t_measured_ms < _LATEST_MS:
            reason = "time"
        elif not is_identifier(reading.quality):
            reason = "quality"
        return reason, name or "", unit

    def refuse(self, reason: str, detail: str = "") -> None:
        """Count a message that was not understood; `detail` becomes the last error, escaped."""
        with self._lock:
            self._count(reason)
            self._counts.last_error = one_line(f"{reason}: {detail}" if detail else reason)

    def pass_over(self, reason: str, count: int = 1) -> None:
        """Count readings of a good message that are not for us: texts, waveforms, those without a value."""
        with self._lock:
            self._counts.received += count
            self._count(reason, count)

    def failed(self, error: object) -> None:
        """Note what went wrong with the connection."""
        with self._lock:
            self._counts.last_error = one_line(error)

    def connected(self, is_connected: bool) -> None:
        """Note that the other side came or went."""
        with self._lock:
            if is_connected != self._counts.is_connected:
                self._counts.is_connected = is_connected
                self._counts.connected_since_ms = self.clock() if is_connected else None

    def status(self) -> SourceStatus:
        """The present counts."""
        with self._lock:
            counts = self._counts
            return SourceStatus(
                name=self.name,
                is_connected=counts.is_connected,
                connected_since_ms=counts.connected_since_ms,
                received=counts.received,
                refused=dict(counts.refused),
                last_received_ms=counts.last_received_ms,
                last_error=counts.last_error,
            )

    def _count(self, reason: str, count: int = 1) -> None:
        self._counts.refused[reason] = self._counts.refused.get(reason, 0) + count


def is_identifier(text: object) -> bool:
    """Whether it is a plain identifier: ASCII letters, digits and `._:@-`, at most 64, a letter or digit first."""
    return isinstance(text, str) and IDENTIFIER.fullmatch(text) is not None


def check_identifier(what: str, text: str) -> str:
    """The identifier itself.

    Raises:
        InputError: it is not a plain one.
    """
    if not is_identifier(text):
        raise InputError(
            f"{what}: expected 1 to 64 ASCII letters, digits and ._:@- with a letter or digit first, got {text!a}"
        )
    return text


def is_number(value: object) -> bool:
    """Whether it is a finite number that a float can hold; truth values are none."""
    if type(value) not in (int, float):
        return False
    try:
        return math.isfinite(float(value))  # type: ignore[arg-type]
    except OverflowError:
        return False


def one_line(text: object) -> str:
    """At most 200 printable ASCII characters: what came from outside cannot forge a line of a log."""
    line = str(text).encode("ascii", "backslashreplace").decode()
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line)[:200]


def _plain_device(device: str) -> str:
    # A reading is not lost for the name of its device: where that is no identifier, its digest stands for it.
    if not device or is_identifier(device):
        return device
    return f"x-{sha256_hex(device.encode('utf-8', 'surrogatepass'))[:16]}"
