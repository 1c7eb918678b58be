"""`smallhold interop`: what other systems read of a ward that another process runs, from its journal."""

from __future__ import annotations

import argparse
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from smallhold.cli.journal_options import add_action, journal_of, key_if_any
from smallhold.cli.options import home_of
from smallhold.cli.output import next_commands, note
from smallhold.errors import InputError

EXAMPLE = "smallhold interop cds --port 8090"

_STOP_SECONDS = 10.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    cds = add_action(actions, "cds", "answer CDS Hooks 2.0: cards about the ward's alerts, feedback into a journal")
    cds.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen; default loopback")
    cds.add_argument("--port", type=int, default=8090, metavar="N", help="default 8090; 0 takes a free one")
    cds.add_argument("--clients", type=Path, metavar="FILE", help="TOML: who may call, and with which keys")
    cds.add_argument("--base-url", metavar="URL", help="with --clients: where clients call, as their tokens name it")
    cds.add_argument("--certificate-file", type=Path, metavar="FILE", help="our certificate, PEM")
    cds.add_argument("--key-file", type=Path, metavar="FILE", help="its private key, PEM")
    cds.add_argument(
        "--allow-origin", action="append", default=[], metavar="ORIGIN", help="a browser page of this origin may ask"
    )
    cds.add_argument("--fhir", choices=("r4", "r5"), default="r4", help="release of suggested resources; default r4")
    cds.add_argument("--pseudonym-key", type=Path, metavar="FILE", help="the key that the ward's feeds use")
    cds.add_argument("--feedback", type=Path, metavar="FILE", help="journal of cards and feedback; default in the home")
    alarms = add_action(actions, "alarms", "send the ward's alarms over MLLP as HL7 v2 ORU^R40, after IHE PCD-04")
    alarms.add_argument("--to", required=True, metavar="URL", help="mllp:// or mllps://HOST[:PORT]")
    alarms.add_argument("--queue", type=Path, metavar="FILE", help="what waits; default alarm-outbox.db in the home")
    alarms.add_argument("--seconds", type=float, metavar="N", help="end after so long; default: until Ctrl-C")
    alarms.add_argument("--ca-file", type=Path, metavar="FILE", help="authorities of the receiver's certificate")
    alarms.add_argument("--certificate-file", type=Path, metavar="FILE", help="our certificate, PEM")
    alarms.add_argument("--key-file", type=Path, metavar="FILE", help="its private key, PEM")
    sdc = add_action(actions, "sdc", "show one bed as an IEEE 11073 SDC device: vital signs, scores and alarms")
    sdc.add_argument("--patient", required=True, metavar="NAME", help="as the journal names them")
    sdc.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen; default loopback")
    sdc.add_argument("--seconds", type=float, metavar="N", help="end after so long; default: until Ctrl-C")
    sdc.add_argument("--ca-file", type=Path, metavar="FILE", help="authorities of the consumers' certificates")
    sdc.add_argument("--certificate-file", type=Path, metavar="FILE", help="our certificate, PEM")
    sdc.add_argument("--key-file", type=Path, metavar="FILE", help="its private key, PEM")


def run(args: argparse.Namespace) -> int:
    """Carry out one action."""
    return {"cds": _cds, "alarms": _alarms, "sdc": _sdc}[args.action](args)


def _cds(args: argparse.Namespace) -> int:
    from smallhold.assist.interop.cds_auth import TokenGate, read_clients
    from smallhold.assist.interop.cds_hooks import CdsService
    from smallhold.assist.interop.cds_http import CdsOptions, serve_cds
    from smallhold.assist.interop.cds_view import JournalView
    from smallhold.assist.interop.fhir_base import Dialect, Release
    from smallhold.assist.interop.hospital import score_vitals
    from smallhold.assist.medication.board import table_check
    from smallhold.assist.orders.interactions import load_interactions
    from smallhold.assist.sources.pseudonyms import Pseudonyms
    from smallhold.device.journal import Journal
    from smallhold.sectors.hospital.terms import HospitalTerms

    options = CdsOptions(
        host=args.host,
        port=args.port,
        certificate_file=args.certificate_file,
        key_file=args.key_file,
        origins=tuple(args.allow_origin),
    )
    if (args.clients is None) != (args.base_url is None):
        raise InputError("--clients and --base-url belong together: a token names the URL that it is for")
    gate = None if args.clients is None else TokenGate(read_clients(args.clients), args.base_url)
    home = home_of(args)
    view = JournalView(journal_of(args), key_if_any(home))
    pseudonym = str if args.pseudonym_key is None else Pseudonyms.from_file(args.pseudonym_key)
    check = table_check(load_interactions(), ())
    path = args.feedback or home.path / "cds-feedback.db"
    with Journal.open(path, key=home.device_key()) as journal:
        service = CdsService(
            view,
            journal,
            Dialect(Release(args.fhir), HospitalTerms()),
            pseudonym=pseudonym,
            check_drug=lambda _patient: check,
            score_vitals=score_vitals,
        )

        def announce(url: str) -> None:
            if args.json:
                print(json.dumps({"url": f"{url}/cds-services", "feedback": str(path)}), flush=True)
            else:
                print(f"CDS Hooks 2.0 at {url}/cds-services", flush=True)
            note("not a medical device; end with ctrl-C")

        serve_cds(service, options, gate=gate, announce=announce)
    next_commands(f"smallhold journal show --journal {path} --kind feedback")
    return 0


def _alarms(args: argparse.Namespace) -> int:
    from smallhold.assist.interop.alarm_outbox import AlarmOutbox
    from smallhold.assist.interop.alarm_sender import AlarmSender, JournalAlarms
    from smallhold.assist.sources.address import Credentials, parse_address
    from smallhold.assist.sources.mllp_client import MllpClient

    _check_seconds(args.seconds)
    credentials = Credentials(ca_file=args.ca_file, certificate_file=args.certificate_file, key_file=args.key_file)
    client = MllpClient(parse_address(args.to, "mllp", "mllps"), credentials=credentials)
    home = home_of(args)
    outbox = AlarmOutbox(args.queue or home.path / "alarm-outbox.db")
    with stopping(args.seconds) as stop:
        alarms = JournalAlarms(journal_of(args), outbox, key_if_any(home))
        sender = AlarmSender(outbox, client, answer_seconds=_STOP_SECONDS / 2)
        sender.start()
        note(f"alarms go to {client.address}; not a medical device; end with ctrl-C")
        alarms.follow(stop, on_error=lambda text: note(f"error: {text}"))
        sender.stop(_STOP_SECONDS)
    status = sender.status()
    outbox.close()
    if args.json:
        print(json.dumps(asdict(status)))
    else:
        print(f"{status.sent} sent, {status.waiting} wait, {status.refused} refused")
    if status.last_error:
        note(f"last error: {status.last_error}")
    return 1 if status.waiting or status.refused else 0


def _sdc(args: argparse.Namespace) -> int:
    from smallhold.assist.hospital import HospitalLimits
    from smallhold.assist.interop.hospital import SDC_METRICS
    from smallhold.assist.interop.sdc_journal import JournalBed
    from smallhold.assist.interop.sdc_provider import BedProvider
    from smallhold.assist.sources.address import Credentials
    from smallhold.sectors.hospital.terms import HospitalTerms

    _check_seconds(args.seconds)
    credentials = None
    if args.certificate_file is not None or args.ca_file is not None:
        credentials = Credentials(ca_file=args.ca_file, certificate_file=args.certificate_file, key_file=args.key_file)
    provider = BedProvider(args.patient, SDC_METRICS, HospitalTerms(), host=args.host, credentials=credentials)
    bed = JournalBed(journal_of(args), provider, HospitalLimits(), key_if_any(home_of(args)))
    with stopping(args.seconds) as stop:
        address = provider.start()
        print(json.dumps({"address": address}) if args.json else f"SDC device of {args.patient}: {address}", flush=True)
        note("not a medical device; end with ctrl-C")
        try:
            bed.follow(stop, on_error=lambda text: note(f"error: {text}"))
        finally:
            provider.stop()
    return 0


def _check_seconds(seconds: float | None) -> None:
    if seconds is not None and not seconds > 0:
        raise InputError(f"--seconds must be positive, got {seconds:g}")


@contextmanager
def stopping(seconds: float | None) -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM or so many seconds set."""
    stop = threading.Event()
    before = [(one, signal.signal(one, lambda *_: stop.set())) for one in (signal.SIGINT, signal.SIGTERM)]
    timer = None if seconds is None else threading.Timer(seconds, stop.set)
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        yield stop
    finally:
        for one, handler in before:
            signal.signal(one, handler)
        if timer is not None:
            timer.cancel()
