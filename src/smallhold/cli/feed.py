"""`smallhold feed`: recorded or simulated patients sent out as if their monitors were sending now."""

from __future__ import annotations

import argparse
import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallhold.cli.options import add_patient_options, choose_stays
from smallhold.cli.output import ProgressBar, note, print_json
from smallhold.errors import InputError

if TYPE_CHECKING:
    from smallhold.assist.sources.monitor_feed import FeedReport, Sink

EXAMPLE = "smallhold feed --to mqtt://localhost --patients 30 --speed 60 --simulated"

_INTERRUPTED = 130


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare arguments."""
    parser.add_argument("--to", required=True, metavar="URL", help="mqtt://, mqtts://, mllp:// or mllps://HOST[:PORT]")
    add_patient_options(parser, split="test")
    parser.add_argument("--patients", type=int, default=30, metavar="N", help="how many patients; default 30")
    parser.add_argument(
        "--speed", default="1", metavar="X", help="so many seconds of a stay pass in one; max: no waiting; default 1"
    )
    parser.add_argument(
        "--part",
        default="1/1",
        metavar="I/N",
        help="only every N-th patient from the I-th on; other feeds send the rest",
    )
    parser.add_argument("--ward", default="icu", metavar="NAME", help="second level of MQTT topics; default icu")
    security = parser.add_argument_group("security")
    security.add_argument("--ca-file", type=Path, metavar="FILE", help="authorities of the other side's certificate")
    security.add_argument("--certificate-file", type=Path, metavar="FILE", help="our certificate, PEM")
    security.add_argument("--key-file", type=Path, metavar="FILE", help="its private key, PEM")
    security.add_argument("--login-file", type=Path, metavar="FILE", help="one line, user:password, for MQTT")
    security.add_argument("--unsafe-plaintext", action="store_true", help="another machine without TLS")


def run(args: argparse.Namespace) -> int:
    """Play the stays; exit code 130 when it was stopped before their end."""
    from smallhold.assist.sources.monitor_feed import play

    speed = _speed(args.speed)
    part, parts = _part(args.part)
    if args.patients < parts:
        raise InputError(f"--patients: expected at least 1 for each part, got {args.patients}")
    sink = _open(args)  # before the patients: whether somebody listens is known at once, reading data takes longer
    stop = threading.Event()
    with _stopped_by_signals(stop):
        chosen = choose_stays(args, args.patients)
        if len(chosen) < args.patients:
            note(f"there are {len(chosen)} patients in this split, not {args.patients}")
        stays = chosen[part - 1 :: parts]
        kind = "simulated" if stays[0].is_simulated else "recorded"
        note(f"{len(stays)} {kind} patients of {stays[0].data_set} to {args.to}, speed {args.speed}")
        total = sum(len(stay.minute) + len(stay.refused) for stay in stays)
        progress = ProgressBar()
        try:
            report = play(
                stays,
                sink,
                speed=speed,
                stop=stop,
                on_batch=lambda sent, _minute: progress("feed", min(sent, total - 1), total),
            )
        finally:
            progress.close()
            sink.close(30.0)
    if args.json:
        print_json({"to": args.to, "simulated": stays[0].is_simulated, **_as_json(report)})
    else:
        print(_in_words(report))
    return 0 if report.is_complete else _INTERRUPTED


def _open(args: argparse.Namespace) -> Sink:
    from smallhold.assist.sources.address import Credentials, parse_address
    from smallhold.assist.sources.feed_sinks import MllpSink, MqttSink
    from smallhold.assist.sources.mqtt import read_login
    from smallhold.assist.sources.secret_file import read_secret

    address = parse_address(args.to)
    credentials = Credentials(ca_file=args.ca_file, certificate_file=args.certificate_file, key_file=args.key_file)
    if address.scheme.startswith("mllp"):
        if args.login_file is not None:
            raise InputError("--login-file: MLLP has no login; other machines are known by their certificates")
        return MllpSink(address, credentials=credentials, unsafe_plaintext=args.unsafe_plaintext)
    login = None if args.login_file is None else read_login(read_secret(args.login_file, "login file"))
    return MqttSink(address, args.ward, credentials=credentials, login=login, unsafe_plaintext=args.unsafe_plaintext)


def _part(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise InputError(f"--part: expected I/N with I from 1 to N, got {text!r}")
    return int(part), int(parts)


def _speed(text: str) -> float:
    if text == "max":
        return math.inf
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < math.inf:
        raise InputError(f"--speed: expected a number of more than 0, or max, got {text!r}")
    return speed


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """The first signal ends the feed in good order; where we are no main thread there are none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.signal(one, lambda *_: stop.set()) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _as_json(report: FeedReport) -> dict[str, Any]:
    fields = asdict(report)
    fields["asked_speed"] = "max" if math.isinf(report.asked_speed) else report.asked_speed
    return fields


def _in_words(report: FeedReport) -> str:
    asked = "max" if math.isinf(report.asked_speed) else f"{report.asked_speed:g}"
    lines = [
        f"{report.sent} readings of {report.patients} patients in {report.seconds:.1f} s: "
        f"{report.readings_per_second:.0f} a second, speed {report.reached_speed:.0f} (asked {asked})"
    ]
    if report.refused:
        lines.append(f"{report.refused} readings were refused by the other side")
    if report.most_behind_seconds > 1:
        lines.append(f"at most {report.most_behind_seconds:.1f} s behind: the other side or this machine is too slow")
    if not report.is_complete:
        lines.append("stopped before the end of the stays")
    return "\n".join(lines)
