"""A source of readings from an IEEE 11073 SDC device: connects by address, subscribes, and fills the inbox.

Extra `sdc`. Discovery by multicast is not used. What a device calculates or sets is passed over: only measurements are
readings. The patient is the one that the device's patient context names, or the one given here.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from smallhold.assist.interop.sdc_library import MDC_SYSTEM, contexts, library
from smallhold.assist.sources.address import Credentials, check_plaintext
from smallhold.assist.sources.inbox import Inbox
from smallhold.assist.sources.intake import Intake, Reading, is_number
from smallhold.assist.sources.mqtt import Backoff
from smallhold.assist.sources.source import SourceStatus
from smallhold.errors import InputError
from smallhold.records import sha256_hex

_LOOK_SECONDS = 0.25
#: IEEE 11073-10207, MeasurementValidity: valid, and validated by a person. All others the gate refuses.
_GOOD = frozenset({"Vld", "Vldated"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SdcOptions:
    """Which device, and how.

    Attributes:
        address: The provider's address, `http://HOST:PORT/PATH` or `https://...`.
        patient: Whose readings these are; None takes the associated patient context's first identification.
        credentials: TLS with certificates on both sides.
        unsafe_plaintext: Another machine without TLS.
        timeout_seconds: Of one request to the device.

    Raises:
        InputError: no such address, or readings would travel between machines in the clear.
    """

    address: str
    patient: str | None = None
    credentials: Credentials | None = None
    unsafe_plaintext: bool = False
    timeout_seconds: int = 5

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.address)
            host = parts.hostname or ""
        except ValueError:
            parts, host = None, ""
        if parts is None or parts.scheme not in ("http", "https") or not host:
            raise InputError(f"SDC: expected http:// or https://HOST:PORT/PATH, got {self.address!a}")
        uses_tls = parts.scheme == "https"
        if uses_tls and self.credentials is None:
            raise InputError("SDC over TLS: expected our certificate: both sides show theirs")
        check_plaintext(host, uses_tls=uses_tls, unsafe_plaintext=self.unsafe_plaintext, what="SDC consumer")


class SdcSource:
    """See `smallhold.assist.sources.source.Source`; connects again with growing pauses.

    Args:
        options: See `SdcOptions`.
        intake: Where readings go.

    Raises:
        MissingExtraError: sdc11073 is not installed.
    """

    def __init__(self, options: SdcOptions, intake: Intake) -> None:
        self._options, self._intake = options, intake
        self._sdc = library()
        self._contexts = contexts(self._sdc, options.credentials)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"source-{intake.name}", daemon=True)

    def start(self, inbox: Inbox) -> None:
        """Begin to connect."""
        self._intake.open(inbox)
        self._thread.start()

    def stop(self, deadline_seconds: float) -> None:
        """Unsubscribe and end."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(deadline_seconds)

    def status(self) -> SourceStatus:
        """How it is doing."""
        return self._intake.status()

    def _run(self) -> None:
        backoff = Backoff(0.5, 30.0, random.SystemRandom().random)
        while not self._stop.is_set():
            try:
                self._follow()
                backoff = Backoff(0.5, 30.0, random.SystemRandom().random)
            except Exception as error:  # the library raises whatever its parts do; the device is tried again
                self._intake.failed(type(error).__name__)
            self._intake.connected(False)
            self._stop.wait(backoff.next_seconds())

    def _follow(self) -> None:
        """One connection, until it is lost or we are told to stop."""
        consumer = self._sdc.SdcConsumer(
            self._options.address,
            self._sdc.Definitions,
            self._contexts,
            socket_timeout=self._options.timeout_seconds,
            force_ssl_connect=self._contexts is not None,
        )
        try:
            consumer.start_all(http_server_start_timeout=10.0)
            mdib = self._sdc.ConsumerMdib(consumer)
            is_other_sequence = threading.Event()

            def restarted(is_other: object) -> None:
                if is_other:
                    is_other_sequence.set()

            # Both are also set to nothing, when the copy of the device's MDIB is cleared.
            self._sdc.observe(
                mdib,
                sequence_or_instance_id_changed_event=restarted,
                metrics_by_handle=lambda states: self._take(mdib, (states or {}).values()),
            )
            mdib.init_mdib()
            self._intake.connected(True)
            self._take(mdib, list(mdib.states.objects))  # what it knew before we came
            while consumer.is_connected and not is_other_sequence.is_set() and not self._stop.wait(_LOOK_SECONDS):
                pass
        finally:
            consumer.stop_all(unsubscribe=self._stop.is_set())

    def _take(self, mdib: Any, states: Iterable[Any]) -> None:
        for state in states:
            try:
                self._take_one(mdib, state)
            except Exception as error:  # one strange metric must not cost the others
                self._intake.refuse("malformed", type(error).__name__)

    def _take_one(self, mdib: Any, state: Any) -> None:
        held = getattr(state, "MetricValue", None)
        descriptor = mdib.descriptions.handle.get_one(state.DescriptorHandle, allow_none=True)
        if held is None or descriptor is None or held.Value is None:
            return
        if descriptor.MetricCategory != self._sdc.pm_types.MetricCategory.MEASUREMENT:
            self._intake.pass_over("not_measured", 1)
            return
        value = float(held.Value) if descriptor.NODETYPE.localname == "NumericMetricDescriptor" else None
        if value is None or not is_number(value):
            self._intake.pass_over("not_numeric", 1)
            return
        validity = held.MetricQuality.Validity.value
        system, unit_system = descriptor.Type.CodingSystem or MDC_SYSTEM, descriptor.Unit.CodingSystem or MDC_SYSTEM
        about = f"{mdib.sequence_id}|{mdib.instance_id}|{state.DescriptorHandle}|{state.StateVersion}"
        self._intake.offer(
            Reading(
                id=sha256_hex(about.encode())[:24],
                patient=self._options.patient or _patient(mdib, self._sdc.pm_types),
                system="MDC" if system == MDC_SYSTEM else system,
                code=descriptor.Type.Code,
                value=value,
                unit=descriptor.Unit.Code if unit_system == MDC_SYSTEM else "",
                t_measured_ms=round((held.DeterminationTime or 0.0) * 1e3),
                quality="good" if validity in _GOOD else validity.lower(),
                device=descriptor.source_mds or "",
            )
        )


def _patient(mdib: Any, pm: Any) -> str:
    """The first identification of the associated patient; empty, which is refused, when there is none."""
    for state in mdib.context_states.objects:
        is_patient = state.NODETYPE.localname == "PatientContextState"
        if is_patient and state.ContextAssociation == pm.ContextAssociation.ASSOCIATED:
            for one in state.Identification:
                return str(one.Extension or "")
    return ""
