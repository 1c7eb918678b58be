"""Readings from an MQTT 5 broker: topic `smallhold/<ward>/<patient>/<code>`, one JSON object a message.

The session is persistent and the quality of service 1: the broker keeps what comes while we are away, and sends again
what we did not acknowledge. A message is acknowledged by our own hand and not the library's: where the inbox keeps
receipts, after the ward has the reading on record, otherwise after the inbox has it.

Guarantees with receipts: what the broker accepted is on record at least once, whenever this process dies, except what
was dropped under overload, which is counted; repetitions are known by their id.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from smallhold.assist.sources.address import Address, Credentials, check_plaintext
from smallhold.assist.sources.inbox import Inbox
from smallhold.assist.sources.intake import Intake, Reading, check_identifier
from smallhold.assist.sources.receipts import Settled
from smallhold.assist.sources.source import SourceStatus
from smallhold.assist.sources.strict_json import MalformedError, parse_json
from smallhold.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from paho.mqtt.client import Client

MAX_PAYLOAD_BYTES = 4096
_MEMBERS = {"id", "value", "unit", "t", "quality", "device", "seq"}
_STABLE_SECONDS = 30.0
_POLL_SECONDS = 0.25
_UNSETTLED_POLL_SECONDS = 0.01
_MAX_PACKET_BYTES = 4 * MAX_PAYLOAD_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttOptions:
    """How to reach the broker.

    Attributes:
        address: `mqtt://` or `mqtts://`.
        ward: Second level of the topics.
        client_id: Names the session that the broker keeps; two clients of one name push each other out.
        credentials: Files of TLS.
        login: User and password, None = neither.
        unsafe_plaintext: Another machine without TLS.
        session_expiry_seconds: How long the broker keeps the session while we are away.
        keepalive_seconds: A connection silent for one and a half times as long is dead.
        receive_maximum: Most messages that the broker sends ahead of our acknowledgements: the back-pressure.
        first_backoff_seconds: Pause after the first lost connection; it doubles up to `longest_backoff_seconds`, and
            a random half is taken off, so that a ward does not come back all at once.
        longest_backoff_seconds: See above.
        connect_timeout_seconds: For one attempt.

    Raises:
        InputError: a value is impossible, or readings would travel between machines in the clear.
    """

    address: Address
    ward: str
    client_id: str
    credentials: Credentials = field(default_factory=Credentials)
    login: tuple[str, str] | None = field(default=None, repr=False)
    unsafe_plaintext: bool = False
    session_expiry_seconds: int = 24 * 3600
    keepalive_seconds: int = 30
    receive_maximum: int = 100
    first_backoff_seconds: float = 0.5
    longest_backoff_seconds: float = 30.0
    connect_timeout_seconds: float = 5.0

    def __post_init__(self) -> None:
        check_identifier("ward", self.ward)
        check_identifier("client id", self.client_id)
        if self.address.scheme not in ("mqtt", "mqtts"):
            raise InputError(f"address: expected mqtt:// or mqtts://, got {self.address}")
        if not 1 <= self.receive_maximum <= 65_535:
            raise InputError(f"receive_maximum: expected 1 to 65535, got {self.receive_maximum}")
        if not 5 <= self.keepalive_seconds <= 65_535:
            raise InputError(f"keepalive_seconds: expected 5 to 65535, got {self.keepalive_seconds}")
        if not 0 < self.first_backoff_seconds <= self.longest_backoff_seconds < float("inf"):
            raise InputError(
                "backoff: expected 0 < first <= longest, got "
                f"{self.first_backoff_seconds} and {self.longest_backoff_seconds} seconds"
            )
        check_plaintext(
            self.address.host,
            uses_tls=self.address.uses_tls,
            unsafe_plaintext=self.unsafe_plaintext,
            what=str(self.address),
        )


def read_message(topic: str, payload: bytes, ward: str) -> Reading:
    """Understand one message; a function of its arguments.

    Raises:
        MalformedError: the topic or the payload is not as documented in `docs/reference/feeds.md`.
    """
    levels = topic.split("/")
    if len(levels) != 4 or levels[0] != "smallhold" or levels[1] != ward:
        raise MalformedError("topic: expected smallhold/<ward>/<patient>/<code>")
    body = parse_json(payload, max_bytes=MAX_PAYLOAD_BYTES)
    if not isinstance(body, dict):
        raise MalformedError("payload: expected a JSON object")
    for name in ("id", "value", "unit", "t"):
        if name not in body:
            raise MalformedError(f"payload: {name} is missing")
    if not body.keys() <= _MEMBERS:
        raise MalformedError("payload: a member that is not documented")
    for name in ("id", "unit", "quality", "device"):
        if name in body and not isinstance(body[name], str):
            raise MalformedError(f"payload: {name}: expected a string")
    if "seq" in body and type(body["seq"]) is not int:
        raise MalformedError("payload: seq: expected a whole number")
    return Reading(
        id=body["id"],
        patient=levels[2],
        system="",
        code=levels[3],
        value=body["value"],
        unit=body["unit"],
        t_measured_ms=body["t"],
        quality=body.get("quality", "good"),
        device=body.get("device", ""),
    )


@dataclass(slots=True, eq=False)
class _Receipt:
    """A message that is to be acknowledged; settled from any thread."""

    mid: int
    qos: int
    is_settled: bool = False

    def settle(self) -> None:
        self.is_settled = True


class MqttSource:
    """Follows all patients of a ward; see the module for what is guaranteed.

    Args:
        options: See `MqttOptions`.
        intake: Where readings go; its name is the source's.
        rng: Of the jitter.

    Raises:
        MissingExtraError: paho-mqtt is not installed.
    """

    def __init__(self, options: MqttOptions, intake: Intake, *, rng: random.Random | None = None) -> None:
        self._options = options
        self.address = options.address
        self._intake = intake
        self._backoff = Backoff(
            options.first_backoff_seconds, options.longest_backoff_seconds, (rng or random.Random()).random
        )
        self._stop = threading.Event()
        self._receipts: deque[_Receipt] = deque()
        self._client = make_client(
            client_id=options.client_id,
            address=options.address,
            credentials=options.credentials,
            login=options.login,
            connect_timeout_seconds=options.connect_timeout_seconds,
        )
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._thread = threading.Thread(target=self._run, name=f"source-{intake.name}", daemon=True)

    def start(self, inbox: Inbox) -> None:
        """Begin to connect; a broker that is away is waited for."""
        self._intake.open(inbox)
        self._thread.start()

    def stop(self, deadline_seconds: float) -> None:
        """Disconnect; the broker keeps the session."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(max(deadline_seconds, 0))

    def status(self) -> SourceStatus:
        """How it is doing."""
        return self._intake.status()

    def _run(self) -> None:
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                self._follow()
            except Exception as error:  # a source outlives whatever a broker or the library does
                self._intake.failed(f"{self._options.address}: {type(error).__name__}: {error}")
            self._intake.connected(False)
            if time.monotonic() - begun > _STABLE_SECONDS:
                self._backoff.reset()
            self._stop.wait(self._backoff.next_seconds())

    def _follow(self) -> None:
        """One connection, from its beginning to its end."""
        from paho.mqtt.client import error_string
        from paho.mqtt.enums import MQTTErrorCode
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._options.session_expiry_seconds
        properties.ReceiveMaximum = self._options.receive_maximum
        properties.MaximumPacketSize = _MAX_PACKET_BYTES  # the broker drops what is longer
        client, address = self._client, self._options.address
        client.connect(
            address.host,
            address.port,
            keepalive=self._options.keepalive_seconds,
            clean_start=False,
            properties=properties,
        )
        # What an earlier connection did not acknowledge is sent again, under another number.
        self._receipts.clear()
        try:
            code = MQTTErrorCode.MQTT_ERR_SUCCESS
            while not self._stop.is_set() and code == MQTTErrorCode.MQTT_ERR_SUCCESS:
                code = client.loop(_UNSETTLED_POLL_SECONDS if self._receipts else _POLL_SECONDS)
                self._acknowledge()
            if not self._stop.is_set():
                self._intake.failed(f"{address}: {error_string(code)}")
        finally:
            client.disconnect()
            client.loop(_POLL_SECONDS)  # sends the farewell

    def _on_connect(self, client: Client, _user: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._intake.failed(f"{self._options.address}: refused: {reason}")
            return
        client.subscribe(f"smallhold/{self._options.ward}/+/+", qos=1)

    def _on_subscribe(self, client: Client, _user: Any, _mid: int, reasons: list[Any], _properties: Any) -> None:
        failures = [str(reason) for reason in reasons if reason.is_failure]
        if failures:
            self._intake.failed(f"{self._options.address}: may not subscribe: {', '.join(failures)}")
            client.disconnect()
        else:
            self._intake.connected(True)

    def _on_message(self, _client: Client, _user: Any, message: Any) -> None:
        # A message that was refused is acknowledged as well: sent again it would be no better.
        receipt = _Receipt(message.mid, message.qos)
        self._receipts.append(receipt)
        try:
            self.receive(message, receipt.settle)
        except Exception as error:  # left unacknowledged it would come again and again, and hold up all others
            self._intake.refuse("internal", type(error).__name__)
            receipt.settle()

    def _acknowledge(self) -> None:
        """Tell the broker what is settled, in the order of arrival (MQTT 5, 4.6), on the thread that has the client."""
        while self._receipts and self._receipts[0].is_settled:
            receipt = self._receipts.popleft()
            self._client.ack(receipt.mid, receipt.qos)

    def receive(self, message: Any, settled: Settled | None = None) -> None:
        """Take one message of the library: anything with `topic` and `payload`."""
        try:
            reading = read_message(message.topic, message.payload, self._options.ward)
        except (MalformedError, UnicodeDecodeError) as error:  # the library decodes the topic when it is read
            self._intake.refuse("malformed", str(error) if isinstance(error, MalformedError) else "topic: not UTF-8")
            if settled is not None:
                settled()
            return
        self._intake.offer(reading, settled)


class Backoff:
    """Pauses that double from `first` to `longest`, each with up to half of it taken off at random.

    Args:
        first: Seconds.
        longest: Seconds.
        fraction: Draws from [0, 1).
    """

    def __init__(self, first: float, longest: float, fraction: Callable[[], float]) -> None:
        self._first = first
        self._longest = longest
        self._fraction = fraction
        self._now = first

    def reset(self) -> None:
        """Begin again at `first`."""
        self._now = self._first

    def peek(self) -> float:
        """The longest that the next pause can be."""
        return self._now

    def next_seconds(self) -> float:
        """The next pause."""
        pause = self._now * (1 - self._fraction() / 2)
        self._now = min(self._now * 2, self._longest)
        return pause


def make_client(
    *,
    client_id: str,
    address: Address,
    credentials: Credentials,
    login: tuple[str, str] | None,
    connect_timeout_seconds: float,
    reconnects: bool = False,
) -> Client:
    """An MQTT 5 client that acknowledges by hand; whoever runs its loop by hand reconnects by hand.

    Raises:
        MissingExtraError: paho-mqtt is not installed.
        InputError: a file of TLS is wrong.
    """
    try:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
    except ModuleNotFoundError as error:
        raise MissingExtraError("paho", "mqtt", "MQTT") from error
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=MQTTProtocolVersion.MQTTv5,
        manual_ack=True,
        reconnect_on_failure=reconnects,
    )
    client.connect_timeout = connect_timeout_seconds
    if address.uses_tls:
        client.tls_set_context(credentials.client_context())
    if login is not None:
        client.username_pw_set(*login)
    return client


def read_login(text: str) -> tuple[str, str]:
    """User and password of `user:password`.

    Raises:
        InputError: there is no colon or no user.
    """
    user, colon, password = text.partition(":")
    if not colon or not user:
        raise InputError("login file: expected one line, user:password")
    return user, password
