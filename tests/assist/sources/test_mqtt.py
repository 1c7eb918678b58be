from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.assist.sources.broker import Broker, make_certificates
from tests.assist.sources.waiting import take, wait_until

from smallhold.assist.sources import Inbox
from smallhold.assist.sources.address import Credentials, parse_address
from smallhold.assist.sources.intake import Intake
from smallhold.assist.sources.mqtt import Backoff, MqttOptions, MqttSource, make_client, read_login, read_message
from smallhold.assist.sources.pseudonyms import Pseudonyms
from smallhold.assist.sources.receipts import Receipts
from smallhold.assist.sources.strict_json import MalformedError
from smallhold.errors import InputError
from smallhold.sectors.hospital.codes import HospitalCodes

NOW_MS = 1_790_000_000_000


def payload(number: int, **changes: Any) -> bytes:
    body = {"id": f"m{number}", "value": 60.5 + number, "unit": "/min", "t": NOW_MS + number, "device": "mon-1"}
    return json.dumps(body | changes).encode()


class Publisher:
    """Sends with quality of service 1 and waits until the broker has it."""

    def __init__(self, url: str, **keywords: Any) -> None:
        address = parse_address(url)
        self.client = make_client(
            client_id="monitor",
            address=address,
            credentials=keywords.get("credentials", Credentials()),
            login=keywords.get("login"),
            connect_timeout_seconds=5,
        )
        self.client.connect(address.host, address.port)
        self.client.loop_start()

    def send(self, body: bytes, topic: str = "smallhold/icu/bed-1/8867-4", qos: int = 1) -> None:
        self.client.publish(topic, body, qos=qos).wait_for_publish(10)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def make_source(url: str, *, intake: Intake | None = None, **options: Any) -> MqttSource:
    return MqttSource(
        MqttOptions(
            address=parse_address(url),
            ward="icu",
            client_id="smallhold-icu",
            first_backoff_seconds=0.05,
            longest_backoff_seconds=0.4,
            **options,
        ),
        intake or Intake("mqtt", HospitalCodes()),
    )


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    started = Broker(tmp_path / "broker").start()
    yield started
    started.stop()


def test_readings_reach_the_inbox_and_nothing_else_does(broker: Broker) -> None:
    inbox, source = Inbox(), make_source(f"mqtt://127.0.0.1:{broker.port}")
    source.start(inbox)
    wait_until(lambda: source.status().is_connected)
    publisher = Publisher(f"mqtt://127.0.0.1:{broker.port}")
    publisher.send(payload(1))
    publisher.send(payload(1))  # sent again
    publisher.send(b'{"id": "x", "value": NaN, "unit": "", "t": 1}')
    publisher.send(payload(2, value="60"))
    publisher.send(payload(3), topic="smallhold/other-ward/bed-1/8867-4")
    publisher.send(payload(4), topic="smallhold/icu/bed-1/99999-9")
    publisher.send(b"x" * 5000)
    publisher.send(payload(5, unit="mm[Hg]"), topic="smallhold/icu/bed-2/MDC_PRESS_CUFF_SYS")
    first, second = take(inbox, 2)
    wait_until(lambda: source.status().received == 5)
    source.stop(5)
    publisher.close()
    assert (first.id, first.patient, first.code, first.value, first.unit) == ("m1", "bed-1", "HR", 61.5, "/min")
    assert (first.t_measured_ms, first.system, first.device) == (NOW_MS + 1, "physionet2012", "mon-1")
    assert (second.patient, second.code, second.unit) == ("bed-2", "NISysABP", "mm[Hg]")
    status = source.status()
    assert status.refused == {"duplicate": 1, "malformed": 2, "value": 1, "unknown_code": 1}
    assert not status.is_connected
    assert status.connected_since_ms is None
    assert status.last_received_ms is not None
    assert inbox.depth == 0


def test_a_broker_that_restarts_loses_nothing_and_doubles_nothing(broker: Broker) -> None:
    url = f"mqtt://127.0.0.1:{broker.port}"
    inbox, source = Inbox(), make_source(url)
    source.start(inbox)
    wait_until(lambda: source.status().is_connected)
    publisher = Publisher(url)
    for number in range(20):
        publisher.send(payload(number))
    publisher.close()
    got = take(inbox, 20)
    broker.stop()
    wait_until(lambda: not source.status().is_connected)
    assert "127.0.0.1" in source.status().last_error
    broker.start()
    wait_until(lambda: source.status().is_connected)
    publisher = Publisher(url)
    for number in range(20, 40):
        publisher.send(payload(number))
    publisher.close()
    got += take(inbox, 20)
    source.stop(5)
    assert [one.id for one in got] == [f"m{number}" for number in range(40)]
    assert inbox.depth == 0


def test_the_broker_keeps_what_comes_while_we_are_away(broker: Broker) -> None:
    url = f"mqtt://127.0.0.1:{broker.port}"
    first = make_source(url)
    first.start(Inbox())
    wait_until(lambda: first.status().is_connected)
    first.stop(5)
    publisher = Publisher(url)
    for number in range(30):
        publisher.send(payload(number))
    publisher.close()
    inbox, second = Inbox(), make_source(url)
    second.start(inbox)
    got = take(inbox, 30)
    second.stop(5)
    assert [one.id for one in got] == [f"m{number}" for number in range(30)]


def test_what_was_not_acknowledged_comes_again_and_is_not_doubled(broker: Broker) -> None:
    url = f"mqtt://127.0.0.1:{broker.port}"
    inbox, source = Inbox(), make_source(url)
    acknowledge = source._client.ack
    source._client.ack = lambda mid, qos: acknowledge(0, 0)  # type: ignore[method-assign]  # as if we died before it
    source.start(inbox)
    wait_until(lambda: source.status().is_connected)
    publisher = Publisher(url)
    for number in range(5):
        publisher.send(payload(number))
    publisher.close()
    assert len(take(inbox, 5)) == 5
    broker.stop()
    source._client.ack = acknowledge  # type: ignore[method-assign]
    broker.start()
    wait_until(lambda: source.status().refused == {"duplicate": 5})
    source.stop(5)
    assert inbox.depth == 0


def test_what_was_not_on_record_when_we_died_comes_again(broker: Broker) -> None:
    url = f"mqtt://127.0.0.1:{broker.port}"
    inbox, source = Inbox(receipts=Receipts()), make_source(url)
    source.start(inbox)
    wait_until(lambda: source.status().is_connected)
    publisher = Publisher(url)
    for number in range(5):
        publisher.send(payload(number))
    publisher.close()
    taken = take(inbox, 5)
    for one in taken[:2]:
        inbox.settle(one)
    time.sleep(0.5)  # the acknowledgements go out
    source.stop(5)
    second_inbox, second = Inbox(receipts=Receipts()), make_source(url)
    second.start(second_inbox)
    assert [one.id for one in take(second_inbox, 3)] == ["m2", "m3", "m4"]
    second.stop(5)
    assert second_inbox.depth == 0


def test_a_message_that_breaks_us_is_counted_and_the_next_is_read(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, inbox = f"mqtt://127.0.0.1:{broker.port}", Inbox()
    codes = HospitalCodes()
    source = make_source(url, intake=Intake("mqtt", codes))
    source.start(inbox)
    wait_until(lambda: source.status().is_connected)
    known = codes.name_of

    def name_of(system: str, code: str) -> str | None:
        if code == "HR":
            raise RuntimeError("broken on purpose")
        return known(system, code)

    monkeypatch.setattr(codes, "name_of", name_of)
    publisher = Publisher(url)
    publisher.send(payload(1), topic="smallhold/icu/bed-1/HR")
    publisher.send(payload(2))
    publisher.close()
    assert take(inbox, 1)[0].id == "m2"
    assert source.status().refused == {"internal": 1}
    assert source.status().last_error == "internal: RuntimeError"  # what it says may be about a patient
    source.stop(5)


def test_a_killed_broker_is_found_again(broker: Broker) -> None:
    url = f"mqtt://127.0.0.1:{broker.port}"
    inbox, source = Inbox(), make_source(url)
    source.start(inbox)
    wait_until(lambda: source.status().is_connected)
    broker.stop(hard=True)
    wait_until(lambda: not source.status().is_connected)
    broker.start()
    wait_until(lambda: source.status().is_connected)
    publisher = Publisher(url)
    publisher.send(payload(1))
    publisher.close()
    assert take(inbox, 1)[0].id == "m1"
    source.stop(5)


def test_mutual_tls_and_a_password(tmp_path: Path) -> None:
    files = make_certificates(tmp_path / "pki")
    strange = make_certificates(tmp_path / "strange", stranger=True)
    broker = Broker(
        tmp_path / "broker",
        settings=f"allow_anonymous true\ncafile {files['ca']}\ncertfile {files['server']}\n"
        f"keyfile {files['server_key']}\nrequire_certificate true\n",
    ).start()
    try:
        url = f"mqtts://127.0.0.1:{broker.port}"
        good = Credentials(ca_file=files["ca"], certificate_file=files["client"], key_file=files["client_key"])
        inbox, source = Inbox(), make_source(url, credentials=good)
        source.start(inbox)
        wait_until(lambda: source.status().is_connected)
        publisher = Publisher(url, credentials=good)
        publisher.send(payload(1))
        publisher.close()
        assert take(inbox, 1)[0].id == "m1"
        source.stop(5)
        without = make_source(url, credentials=Credentials(ca_file=files["ca"]))
        without.start(Inbox())
        wait_until(lambda: without.status().last_error != "")
        assert not without.status().is_connected
        without.stop(5)
        mistrusting = make_source(url, credentials=Credentials(ca_file=strange["ca"]))
        mistrusting.start(Inbox())
        wait_until(lambda: "CERTIFICATE_VERIFY_FAILED" in mistrusting.status().last_error)
        mistrusting.stop(5)
    finally:
        broker.stop()


def test_a_wrong_password_is_told_and_never_shown(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "ward", "right-one"], check=True)
    broker = Broker(tmp_path / "broker", settings=f"allow_anonymous false\npassword_file {passwords}").start()
    try:
        url = f"mqtt://127.0.0.1:{broker.port}"
        wrong = make_source(url, login=("ward", "secret-wrong"))
        wrong.start(Inbox())
        wait_until(lambda: wrong.status().last_error != "")
        assert not wrong.status().is_connected
        assert "secret-wrong" not in wrong.status().last_error + repr(wrong._options)
        wrong.stop(5)
        right = make_source(url, login=("ward", "right-one"))
        right.start(Inbox())
        wait_until(lambda: right.status().is_connected)
        right.stop(5)
    finally:
        broker.stop()


def test_a_broker_that_is_not_there_is_waited_for_and_stop_does_not_hang() -> None:
    source = make_source("mqtt://127.0.0.1:9")
    source.start(Inbox())
    wait_until(lambda: "Refused" in source.status().last_error)
    begun = time.monotonic()
    source.stop(60)
    assert time.monotonic() - begun < 20
    source.stop(5)


@pytest.mark.parametrize(
    ("topic", "body", "message"),
    [
        ("smallhold/icu/bed-1", payload(1), "topic: expected"),
        ("smallhold/icu/bed-1/HR/more", payload(1), "topic: expected"),
        ("other/icu/bed-1/HR", payload(1), "topic: expected"),
        ("smallhold/icu/bed-1/HR", b"[]", "expected a JSON object"),
        ("smallhold/icu/bed-1/HR", b'{"id": "1"}', "value is missing"),
        ("smallhold/icu/bed-1/HR", payload(1, more=1), "not documented"),
        ("smallhold/icu/bed-1/HR", payload(1, id=7), "id: expected a string"),
        ("smallhold/icu/bed-1/HR", payload(1, seq="7"), "seq: expected a whole number"),
        ("smallhold/icu/bed-1/HR", b'{"id": "1", "id": "2"}', "occurs twice"),
        ("smallhold/icu/bed-1/HR", b'{"id": Infinity}', "NaN and Infinity"),
        ("smallhold/icu/bed-1/HR", b"[" * 4000, "nested too deeply"),
        ("smallhold/icu/bed-1/HR", b'{"value": ' + b"9" * 4080 + b"}", "not JSON|missing"),
        ("smallhold/icu/bed-1/HR", b"\xff", "not JSON in UTF-8"),
        ("smallhold/icu/bed-1/HR", b" " * 5000, "at most 4096 bytes, got 5000"),
    ],
)
def test_what_is_not_a_message_is_malformed(topic: str, body: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        read_message(topic, body, "icu")


def test_patients_get_keyed_pseudonyms() -> None:
    inbox = Inbox()
    intake = Intake("mqtt", HospitalCodes(), pseudonyms=Pseudonyms(b"0123456789abcdef"))
    intake.open(inbox)
    assert intake.offer(read_message("smallhold/icu/12345/HR", payload(1), "icu")) is None
    (one,) = inbox.take(1, 0)
    assert one.patient == Pseudonyms(b"0123456789abcdef")("12345") != Pseudonyms(b"0123456789abcdeX")("12345")
    assert "12345" not in repr(one)
    with pytest.raises(InputError, match="at least 16 bytes, got 5"):
        Pseudonyms(b"short")


def test_backoff_doubles_up_to_its_limit_and_is_jittered() -> None:
    steady = Backoff(1, 8, lambda: 0.0)
    assert [steady.next_seconds() for _ in range(5)] == [1, 2, 4, 8, 8]
    steady.reset()
    assert steady.next_seconds() == 1
    assert Backoff(1, 8, lambda: 0.5).next_seconds() == 0.75


def test_impossible_options_are_refused() -> None:
    with pytest.raises(InputError, match="another machine"):
        make_source("mqtt://broker.example.org")
    with pytest.raises(InputError, match="does not belong"):
        parse_address("mqtt://user:password@localhost")
    with pytest.raises(InputError, match="expected mqtt://"):
        make_source("mllp://localhost")
    with pytest.raises(InputError, match="user:password"):
        read_login("nobody")
    with pytest.raises(InputError, match="No such file"):
        make_source("mqtts://localhost", credentials=Credentials(ca_file=Path("missing.pem")))
    with pytest.raises(InputError, match="belong together"):
        make_source("mqtts://localhost", credentials=Credentials(certificate_file=Path("x.pem")))
