"""The other end of our sources: sends readings to an MQTT broker or an MLLP server, as monitors do."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from smallhold.assist.sources.address import Address, Credentials, check_plaintext
from smallhold.assist.sources.hl7 import write_oru
from smallhold.assist.sources.intake import Reading, check_identifier
from smallhold.assist.sources.mllp_client import MllpClient
from smallhold.assist.sources.mqtt import make_client
from smallhold.device.wall_clock import wall_ms
from smallhold.errors import EndpointError

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessageInfo
    from paho.mqtt.reasoncodes import ReasonCode

_MOST_IN_FLIGHT = 200
_HL7_SYSTEM = {"loinc": "LN"}


class MqttSink:
    """Publishes with quality of service 1, at most 200 messages ahead of the broker's acknowledgements.

    Args:
        address: Of the broker.
        ward: Second level of the topics.
        credentials: Files of TLS.
        login: User and password.
        unsafe_plaintext: Another machine without TLS.
        deadline_seconds: A broker that acknowledges nothing for so long is gone.

    Raises:
        EndpointError: the broker cannot be reached, or refuses us.
        InputError: readings would travel between machines in the clear, or a file is wrong.
        MissingExtraError: paho-mqtt is not installed.
    """

    def __init__(
        self,
        address: Address,
        ward: str,
        *,
        credentials: Credentials | None = None,
        login: tuple[str, str] | None = None,
        unsafe_plaintext: bool = False,
        deadline_seconds: float = 30.0,
    ) -> None:
        check_plaintext(address.host, uses_tls=address.uses_tls, unsafe_plaintext=unsafe_plaintext, what=str(address))
        self._address = address
        self._ward = check_identifier("ward", ward)
        self._deadline_seconds = deadline_seconds
        self._in_flight: list[MQTTMessageInfo] = []
        self._client = make_client(
            client_id=f"smallhold-feed-{random.SystemRandom().randrange(2**32):08x}",
            address=address,
            credentials=credentials or Credentials(),
            login=login,
            connect_timeout_seconds=5.0,
            reconnects=True,
        )
        self._client.max_inflight_messages_set(_MOST_IN_FLIGHT)
        self._refusal = ""
        self._client.on_connect = self._on_connect
        try:
            self._client.connect(address.host, address.port, keepalive=30)
        except (OSError, ValueError) as error:
            raise EndpointError(f"{address}: cannot connect: {error}") from error
        self._client.loop_start()
        try:
            self._wait(self._client.is_connected, "connect")
        except EndpointError:
            self._hang_up()
            raise

    def _on_connect(self, _client: Client, _user: object, _flags: object, reason: ReasonCode, _more: object) -> None:
        self._refusal = str(reason) if reason.is_failure else ""

    def send(self, batch: Sequence[Reading]) -> int:
        """Publish each reading."""
        for reading in batch:
            body = {
                "id": reading.id,
                "value": reading.value,
                "unit": reading.unit,
                "t": reading.t_measured_ms,
                "quality": reading.quality,
                "device": reading.device,
            }
            topic = f"smallhold/{self._ward}/{reading.patient}/{reading.code}"
            self._in_flight.append(self._client.publish(topic, json.dumps(body, separators=(",", ":")), qos=1))
        if len(self._in_flight) >= _MOST_IN_FLIGHT:
            self._settle(_MOST_IN_FLIGHT // 2)
        return len(batch)

    def close(self, deadline_seconds: float) -> None:
        """Wait for the acknowledgements, and disconnect."""
        try:
            self._deadline_seconds = deadline_seconds
            self._settle(0)
        finally:
            self._hang_up()

    def _hang_up(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _settle(self, most: int) -> None:
        def is_settled() -> bool:
            self._in_flight = [message for message in self._in_flight if not message.is_published()]
            return len(self._in_flight) <= most

        self._wait(is_settled, f"acknowledge {len(self._in_flight)} readings")

    def _wait(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self._deadline_seconds
        while not holds():
            if self._refusal:
                raise EndpointError(f"{self._address}: the broker refuses us: {self._refusal}")
            if time.monotonic() > deadline:
                raise EndpointError(f"{self._address}: the broker did not {what} within {self._deadline_seconds:g} s")
            time.sleep(0.001)


class MllpSink:
    """Sends one ORU^R01 for each batch and waits for its answer; reconnects with growing pauses.

    A message whose answer is lost is sent again with the same bytes, which the receiver knows.

    Args:
        address: Of the server.
        credentials: Files of TLS.
        unsafe_plaintext: Another machine without TLS.
        deadline_seconds: For one message, reconnections included.

    Raises:
        EndpointError: the server cannot be reached.
        InputError: readings would travel between machines in the clear, or a file is wrong.
    """

    def __init__(
        self,
        address: Address,
        *,
        credentials: Credentials | None = None,
        unsafe_plaintext: bool = False,
        deadline_seconds: float = 30.0,
    ) -> None:
        self._client = MllpClient(address, credentials=credentials, unsafe_plaintext=unsafe_plaintext)
        self._deadline_seconds = deadline_seconds
        self._number = 0
        try:
            self._client.connect(5.0)
        except OSError as error:
            raise EndpointError(f"{address}: cannot connect: {error}") from error

    def send(self, batch: Sequence[Reading]) -> int:
        """Send one message; nothing of it counts when the answer is not AA or CA."""
        self._number += 1
        named = [replace(one, system=_HL7_SYSTEM.get(one.system, f"99{one.system}")) for one in batch]
        control_id = f"F{self._number}"
        code, _ = self._client.ask(write_oru(named, control_id, wall_ms()), control_id, self._deadline_seconds)
        return len(batch) if code in ("AA", "CA") else 0

    def close(self, deadline_seconds: float) -> None:  # noqa: ARG002 - every message was answered already
        """Hang up."""
        self._client.close()
