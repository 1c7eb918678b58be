"""Fuzz the sources of live readings: mutated messages, in process and over a real socket.

    python -m bench.fuzz_feeds --seconds 600 --source hl7

Every mutant is given to the code that a message from outside reaches first. An exception that escapes, a mutant that
takes more than a second of CPU, or memory that grows by more than 256 MiB ends the run with exit code 1, and the mutant
is kept in runs/fuzz-feeds. A mutant that is refused in a new way (another reason, another message) or accepted for the
first time joins the corpus. Every 200th mutant also goes over a real socket (HL7 and FHIR), and a good message after it
must still be answered.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import resource
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from smallhold.assist.hospital import HospitalLimits
from smallhold.assist.sources import Inbox
from smallhold.assist.sources.address import parse_address
from smallhold.assist.sources.fhir import read_resource
from smallhold.assist.sources.fhir_server import FhirOptions, FhirSource
from smallhold.assist.sources.hl7 import write_oru
from smallhold.assist.sources.intake import IDENTIFIER, Intake, Reading
from smallhold.assist.sources.mllp import BEGIN, END, MllpOptions, MllpSource
from smallhold.assist.sources.mqtt import MqttOptions, MqttSource
from smallhold.assist.sources.strict_json import MalformedError
from smallhold.records import Observation
from smallhold.sectors.hospital.codes import HospitalCodes

SOURCES = ("mqtt", "hl7", "fhir")
HANG_SECONDS = 1.0  # of CPU
STALL_SECONDS = 20.0
GROWTH_BYTES = 256 * 2**20
MOST_BYTES = 64 * 1024
MOST_IN_CORPUS = 1_000
OVER_THE_WIRE = 200
NOW_MS = 1_767_319_445_000

_TOKENS = [
    *(bytes([byte]) for byte in b'|^~\\&\r\n\x0b\x1c\x00\xff{}[]":,'),
    *rb"MSH|^~\& PID| OBR| OBX| NM \F\ \X0D\ ORU^R01 2.6 8859/1 MDC LN 8867-4 150456 /min".split(),
    *rb"null true NaN Infinity 1e999 -0 1e-999 \u0000 \ud800 urn:uuid: smallhold/icu/ 2026-02-30T25:61:61Z".split(),
    *b'"value": "id": "resourceType": "Bundle" "Observation" "component": "entry": "valueQuantity": "coding":'.split(),
    *(b"UNICODE UTF-8", b"\xc0\x80", b"\xed\xa0\x80", b"\xe2\x80\xae", b"\xef\xbb\xbf"),
    *(b"9" * 400, b"[" * 900, b'{"a":' * 300),
]
_VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1e308,
    10**400,
    0.1,
    "",
    "x",
    "x" * 70,
    "8867-4",
    "\u202e",
    "a|b",
    [],
    {},
    [[]],
]


class Target(Protocol):
    """What is fuzzed."""

    seeds: list[bytes]
    intake: Intake
    inbox: Inbox

    def receive(self, data: bytes) -> None:
        """Give it one message in process."""

    def survives(self, data: bytes) -> bool:
        """Whether a good message is still answered after this one went over a real socket."""

    def close(self) -> None:
        """End servers."""


def _readings() -> list[Reading]:
    return [
        Reading(
            id="r", patient="bed-1", system=system, code=code, value=value, unit=unit, t_measured_ms=NOW_MS, device="d"
        )
        for system, code, value, unit in (("LN", "8867-4", 72, "/min"), ("MDC", "150456", 97.5, "262688"))
    ]


def _intake(name: str) -> tuple[Intake, Inbox]:
    # Few are remembered, so that not every good mutant is one that came before.
    intake, inbox = Intake(name, HospitalCodes(), clock=lambda: NOW_MS, remembered_ids=4), Inbox()
    intake.open(inbox)
    return intake, inbox


class MqttTarget:
    """Topic and payload, with a NUL between them."""

    def __init__(self) -> None:
        self.intake, self.inbox = _intake("mqtt")
        options = MqttOptions(address=parse_address("mqtt://localhost"), ward="icu", client_id="fuzz")
        self._source = MqttSource(options, self.intake)
        body = {"id": "m1", "value": 72.5, "unit": "/min", "t": NOW_MS, "quality": "good", "device": "d", "seq": 3}
        self.seeds = [
            f"smallhold/icu/bed-1/{code}\0{json.dumps(body | {'id': f'm{number}'})}".encode()
            for number, code in enumerate(("8867-4", "MDC_TEMP", "HR"))
        ]

    def receive(self, data: bytes) -> None:
        """In process."""
        topic, _, payload = data.partition(b"\0")
        try:
            text = topic.decode()
        except UnicodeDecodeError:
            text = topic.decode("latin-1")
        self._source.receive(SimpleNamespace(topic=text, payload=payload))

    def survives(self, data: bytes) -> bool:  # noqa: ARG002 - a broker would need a server of another project
        """Over a socket."""
        return True

    def close(self) -> None:
        """End."""


class Hl7Target:
    """One message without its frame."""

    def __init__(self) -> None:
        self.intake, self.inbox = _intake("hl7")
        self._source = MllpSource(MllpOptions(port=0), self.intake)
        self._server = MllpSource(MllpOptions(port=0, idle_seconds=0.5), Intake("hl7-wire", HospitalCodes()))
        self._server.start(Inbox())
        good = write_oru(_readings(), "C1", NOW_MS)
        self.seeds = [good, good.replace(b"|", b"#").replace(b"^", b"*"), good.replace(b"UNICODE UTF-8", b"8859/1")]

    def receive(self, data: bytes) -> None:
        """In process."""
        for answer in self._source.receive(data):  # none, one, or two: as the sender asks
            if (
                not answer.startswith(b"MSH|")
                or answer.count(b"\r") not in (2, 3)
                or b"\x1c" in answer
                or b"\x0b" in answer
            ):
                raise AssertionError(f"an answer that is none: {answer!r}")

    def survives(self, data: bytes) -> bool:
        """Over a socket."""
        _send(self._server.port, BEGIN + data + END)
        _send(self._server.port, data)
        return b"MSA|AA|C1" in _send(self._server.port, BEGIN + self.seeds[0] + END, until=END)

    def close(self) -> None:
        """End."""
        self._server.stop(5)


class FhirTarget:
    """The JSON of one resource."""

    def __init__(self) -> None:
        self.intake, self.inbox = _intake("fhir")
        self._codes = HospitalCodes()
        self._server = FhirSource(
            FhirOptions(port=0, request_seconds=0.5), Intake("fhir-wire", HospitalCodes()), HospitalCodes()
        )
        self._server.start(Inbox())
        ucum = "http://unitsofmeasure.org"
        loinc = "http://loinc.org"
        one = {
            "resourceType": "Observation",
            "id": "o1",
            "status": "final",
            "code": {"coding": [{"system": loinc, "code": "8867-4"}]},
            "subject": {"reference": "Patient/bed-1"},
            "effectiveDateTime": "2026-01-02T02:04:05Z",
            "valueQuantity": {"value": 72.5, "system": ucum, "code": "/min"},
            "device": {"reference": "Device/d"},
        }
        part = {"code": {"coding": [{"system": loinc, "code": "8480-6"}]}}
        both = {name: value for name, value in one.items() if name != "valueQuantity"} | {
            "component": [part | {"valueQuantity": {"value": 118, "system": ucum, "code": "mm[Hg]"}}, part]
        }
        bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": one}, {"resource": both}]}
        self.seeds = [json.dumps(resource).encode() for resource in (one, both, bundle)]

    def receive(self, data: bytes) -> None:
        """In process."""
        try:
            for item in read_resource(data, self._codes):
                if isinstance(item, str):
                    self.intake.pass_over(item)
                else:
                    self.intake.offer(item)
        except MalformedError as error:
            self.intake.refuse("malformed", str(error))

    def survives(self, data: bytes) -> bool:
        """Over a socket."""
        _send(self._server.port, data)
        self._post(data)
        return self._post(self.seeds[0]) == 201

    def _post(self, data: bytes) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=5)
        try:
            connection.request("POST", "/fhir", data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            json.loads(answer.read())
            return answer.status
        finally:
            connection.close()

    def close(self) -> None:
        """End."""
        self._server.stop(5)


def _send(port: int, data: bytes, until: bytes = b"") -> bytes:
    """Send, hang up our half, and read what comes back."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        try:
            connection.sendall(data)
            if not until:
                connection.shutdown(socket.SHUT_WR)
            while (not until or until not in received) and (part := connection.recv(65_536)):
                received += part
        except OSError:
            pass
    return received


TARGETS: dict[str, Callable[[], Target]] = {"mqtt": MqttTarget, "hl7": Hl7Target, "fhir": FhirTarget}


def mutate(rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """One mutant of a member of the corpus: a change of its JSON, where it is some, or one to six of its bytes."""
    chosen = rng.choice(corpus)
    if rng.random() < 0.6 and (changed := _mutate_json(rng, chosen)) is not None:
        return changed[:MOST_BYTES]
    data = bytearray(chosen)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.randint(1, 24))
        match rng.randrange(9):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at:at] = rng.choice(_TOKENS)
            case 2:
                data[at:end] = rng.choice(_TOKENS)
            case 3:
                del data[at:end]
            case 4:
                data[at:at] = data[at:end] * rng.choice((1, 2, 50))
            case 5:
                other = rng.choice(corpus)
                cut = rng.randrange(len(other) + 1)
                data[at:] = other[cut:]
            case 6:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            case 7:
                spans = [match.span() for match in re.finditer(rb"[0-9]+", data)]
                if spans:
                    begin, stop = rng.choice(spans)
                    data[begin:stop] = rng.choice((b"0", b"-1", b"1e308", b"99999999999999999999", b"0.1", b"x"))
            case _:
                del data[at:]
    return bytes(data[:MOST_BYTES])


def _mutate_json(rng: random.Random, data: bytes) -> bytes | None:
    """Valid JSON with one or two values replaced, left out, repeated or put elsewhere; None where it is no JSON."""
    head, separator, body = data.rpartition(b"\0")
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError):
        return None
    for _ in range(rng.randint(1, 2)):
        part: Any = {"": tree}
        key: Any = ""
        while isinstance(part[key], dict | list) and part[key] and rng.random() < 0.85:
            part = part[key]
            key = rng.choice(list(part)) if isinstance(part, dict) else rng.randrange(len(part))
        match rng.randrange(4):
            case 0:
                part[key] = rng.choice(_VALUES)
            case 1:
                part[key] = [part[key]] * (50 if len(body) < MOST_BYTES // 50 and rng.random() < 0.3 else 2)
            case 2 if part is not tree and isinstance(part, dict) and key:
                part[str(rng.choice(("id", "status", "code", "system", "component", "x")))] = part.pop(key)
            case _ if isinstance(part[key], str):
                part[key] = part[key] + rng.choice(("\n", "|", "\x00", "9", "Z", "/x", "é"))
        if "" in part and isinstance(part, dict) and key == "":
            tree = part[""]
    try:
        return head + separator + json.dumps(tree, ensure_ascii=rng.random() < 0.5).encode("utf-8", "replace")
    except (ValueError, RecursionError):
        return None


@dataclass(slots=True)
class FuzzReport:
    """What a run reached.

    Attributes:
        source: What was fuzzed.
        inputs: Mutants tried.
        seconds: Wall clock.
        slowest_ms: The slowest mutant, CPU time.
        grown_bytes: Peak memory above that at the beginning.
        classes: Outcome to number of mutants.
        failure: What ended the run, empty when nothing did.
    """

    source: str
    inputs: int = 0
    seconds: float = 0.0
    slowest_ms: float = 0.0
    grown_bytes: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    failure: str = ""


def fuzz(source: str, seconds: float, seed: int, keep: Path) -> FuzzReport:
    """Fuzz one source.

    Args:
        source: One of `SOURCES`.
        seconds: How long.
        seed: The same seed gives the same mutants while the same ones are new.
        keep: Folder for a mutant that ends the run.
    """
    rng, target, report = random.Random(seed), TARGETS[source](), FuzzReport(source)
    corpus = list(target.seeds)
    limits = HospitalLimits()
    begun = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    data = b""
    try:
        while time.monotonic() - begun < seconds:
            data = mutate(rng, corpus)
            counts = target.intake.status().refused
            given, given_cpu = time.monotonic(), time.thread_time()
            target.receive(data)
            took, took_cpu = time.monotonic() - given, time.thread_time() - given_cpu
            taken = target.inbox.take(10_000, 0)
            _check(taken, limits)
            outcome = _outcome(target.intake, counts, taken)
            if outcome not in report.classes and len(corpus) < MOST_IN_CORPUS:
                corpus.append(data)
            report.classes[outcome] += 1
            report.inputs += 1
            report.slowest_ms = max(report.slowest_ms, took_cpu * 1000)
            # On a busy machine the clock on the wall says little; a wait that never ends shows on it alone.
            if took_cpu > HANG_SECONDS or took > STALL_SECONDS:
                raise AssertionError(f"took {took:.1f} s, {took_cpu:.1f} s of CPU")
            if report.inputs % OVER_THE_WIRE != 1:
                continue
            if not target.survives(data):
                raise AssertionError("a good message is no longer answered")
            report.grown_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
            if report.grown_bytes > GROWTH_BYTES:
                raise AssertionError(f"memory grew by {report.grown_bytes} bytes")
    except Exception as error:
        keep.mkdir(parents=True, exist_ok=True)
        path = keep / f"{source}-seed{seed}-{report.inputs}.bin"
        path.write_bytes(data)
        report.failure = f"{type(error).__name__}: {error} ({path})"
    finally:
        report.seconds = time.monotonic() - begun
        target.close()
    return report


def _check(taken: Sequence[Observation], limits: HospitalLimits) -> None:
    """What was let in holds what the sources promise."""
    for one in taken:
        words = (one.id, one.patient, one.quality, one.device or "d")
        if not all(IDENTIFIER.fullmatch(word) for word in words) or limits.plausible_range(one.code) is None:
            raise AssertionError(f"let in: {one!r}")
        if not abs(one.value) < float("inf") or not (one.unit.isascii() and one.unit.isprintable()):
            raise AssertionError(f"let in: {one!r}")


def _outcome(intake: Intake, before: dict[str, int], taken: Sequence[Observation]) -> str:
    """The reasons that were counted, and the words of the last error without what varies."""
    status = intake.status()
    reasons = sorted(reason for reason, count in status.refused.items() if count != before.get(reason, 0))
    words = ["taken"] * bool(taken) + reasons
    if "malformed" in reasons or "unsupported" in reasons:
        words.append(re.sub(r"[0-9]+", "N", status.last_error))
    return ", ".join(words) or "nothing in it"


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz and print what was reached; exit code 1 where something broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each source; default 60")
    parser.add_argument("--source", choices=(*SOURCES, "all"), default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz-feeds"), help="folder for what breaks it")
    args = parser.parse_args(argv)
    has_failed = False
    for source in SOURCES if args.source == "all" else (args.source,):
        report = fuzz(source, args.seconds, args.seed, args.keep)
        print(
            f"{source}: {report.inputs} mutants in {report.seconds:.0f} s, seed {args.seed}; "
            f"slowest {report.slowest_ms:.0f} ms of CPU, memory +{report.grown_bytes / 2**20:.0f} MiB, "
            f"{len(report.classes)} outcomes"
        )
        for outcome, count in report.classes.most_common(40):
            print(f"  {count:8d}  {outcome}")
        if report.failure:
            has_failed = True
            print(f"  FAILED  {report.failure}", file=sys.stderr)
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())
