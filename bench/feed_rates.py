"""How many readings a second pass through each source, from a simulated ward to the far side of the inbox.

    python -m bench.feed_rates

Sender, broker and receiver share this machine, so that this is what the whole chain carries, not the receiver alone.
"""

from __future__ import annotations

import http.client
import json
import math
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from smallhold.assist.sources import Inbox, Source
from smallhold.assist.sources.address import parse_address
from smallhold.assist.sources.feed_sinks import MllpSink, MqttSink
from smallhold.assist.sources.fhir_server import FhirOptions, FhirSource
from smallhold.assist.sources.intake import Intake, Reading
from smallhold.assist.sources.mllp import MllpOptions, MllpSource
from smallhold.assist.sources.monitor_feed import InboxSink, Sink, play
from smallhold.assist.sources.mqtt import MqttOptions, MqttSource
from smallhold.sectors.hospital.codes import HospitalCodes
from smallhold.sectors.hospital.simulator import simulate_ward

STAYS = simulate_ward(30, 1, 48)
NUM_READINGS = sum(len(stay.minute) + len(stay.refused) for stay in STAYS)
STEADY_RATE = 200  # of thirty beds with a monitor that sends seven signals a second
STEADY_SECONDS = 15.0


class FhirSink:
    """One Bundle for each batch."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def send(self, batch: Sequence[Reading]) -> int:
        """Post it."""
        entries = [{"resource": _observation(one)} for one in batch]
        body = json.dumps({"resourceType": "Bundle", "type": "batch", "entry": entries})
        self._connection.request("POST", "/fhir", body, {"Content-Type": "application/fhir+json"})
        answer = json.loads(self._connection.getresponse().read())
        return sum(entry["response"]["status"].startswith("201") for entry in answer["entry"])

    def close(self, deadline_seconds: float) -> None:  # noqa: ARG002 - everything was answered
        """Hang up."""
        self._connection.close()


def _observation(one: Reading) -> dict[str, object]:
    system = "http://loinc.org" if one.system == "loinc" else f"urn:smallhold:{one.system}"
    seconds, ms = divmod(one.t_measured_ms, 1000)
    return {
        "resourceType": "Observation",
        "id": one.id,
        "status": "final",
        "code": {"coding": [{"system": system, "code": one.code}]},
        "subject": {"reference": f"Patient/{one.patient}"},
        "effectiveInstant": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{ms:03d}Z",
        "valueQuantity": {"value": one.value, "system": "http://unitsofmeasure.org", "code": one.unit},
    }


@contextmanager
def _broker() -> Iterator[int]:
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if program is None:
        sys.exit("mosquitto is missing: make system")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "mosquitto.conf")
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 100000\n")
        process = subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL)  # noqa: S603
        try:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.02)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def measure(
    name: str, make_source: Callable[[], Source | None], make_sink: Callable[[Source | None, Inbox], Sink]
) -> None:
    """Play the ward through one source, as quickly as it goes and at a steady rate, and print what it carried."""
    for speed in (math.inf, 48 * 3600 * STEADY_RATE / NUM_READINGS):
        inbox, source, stop = Inbox(per_patient=4096), make_source(), threading.Event()
        if source is not None:
            source.start(inbox)
            deadline = time.monotonic() + 10
            while not source.status().is_connected and time.monotonic() < deadline:
                time.sleep(0.01)
        delays: list[int] = []
        taker = threading.Thread(target=_take, args=[inbox, delays, stop])
        taker.start()
        sink, ending = make_sink(source, inbox), threading.Event()
        if not math.isinf(speed):
            threading.Timer(STEADY_SECONDS, ending.set).start()
        begun, cpu = time.perf_counter(), time.process_time()
        report = play(STAYS, sink, speed=speed, stop=ending)
        sink.close(30)
        deadline = time.monotonic() + 30
        while len(delays) + sum(inbox.dropped.values()) < report.sent and time.monotonic() < deadline:
            time.sleep(0.005)
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        stop.set()
        taker.join(10)
        if source is not None:
            source.stop(5)
        told = f"{name:6} {report.sent} sent, {len(delays)} taken, dropped {inbox.dropped}; "
        if math.isinf(speed):
            told += f"{report.sent / seconds:.0f} a second, {cpu / report.sent * 1e6:.0f} us of CPU each on both sides"
        else:
            p50, p99 = (statistics.quantiles(delays, n=100)[at] for at in (49, 98))
            told += f"at {STEADY_RATE} a second from due to inbox p50 {p50:.0f} ms, p99 {p99:.0f} ms"
        print(told, flush=True)


def _take(inbox: Inbox, delays: list[int], stop: threading.Event) -> None:
    while not stop.is_set() or inbox.depth:
        delays += [one.t_received_ms - one.t_measured_ms for one in inbox.take(512, 0.05)]


def main() -> None:
    """Measure every source in turn."""
    codes = HospitalCodes()
    measure("inbox", lambda: None, lambda _, inbox: InboxSink(inbox, Intake("inbox", codes)))
    with _broker() as port:
        address = parse_address(f"mqtt://127.0.0.1:{port}")
        options = MqttOptions(address=address, ward="icu", client_id="bench")
        measure("mqtt", lambda: MqttSource(options, Intake("mqtt", codes)), lambda *_: MqttSink(address, "icu"))

    def to_mllp(source: Source | None, _: Inbox) -> Sink:
        assert isinstance(source, MllpSource)  # noqa: S101
        return MllpSink(parse_address(f"mllp://127.0.0.1:{source.port}"))

    def to_fhir(source: Source | None, _: Inbox) -> Sink:
        assert isinstance(source, FhirSource)  # noqa: S101
        return FhirSink(source.port)

    measure("hl7", lambda: MllpSource(MllpOptions(port=0), Intake("hl7", codes)), to_mllp)
    measure("fhir", lambda: FhirSource(FhirOptions(port=0), Intake("fhir", codes), codes), to_fhir)


if __name__ == "__main__":
    main()
