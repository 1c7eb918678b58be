"""Where the readings of `smallhold bedside` come from: what its arguments say, as sources that are not yet started."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from smallhold.errors import InputError

if TYPE_CHECKING:
    from smallhold.assist.sources import Source

_NAMES = "--mqtt, --mllp, --fhir and --csv"


def add_source_options(group: argparse._ArgumentGroup) -> None:
    """Declare them."""
    group.add_argument("--mqtt", metavar="URL", help="follow a broker: mqtt:// or mqtts://HOST[:PORT]")
    group.add_argument("--mllp", type=int, metavar="PORT", help="listen for HL7 v2 over MLLP; 0 takes a free port")
    group.add_argument("--fhir", type=int, metavar="PORT", help="listen for FHIR Observations and Bundles over HTTP")
    group.add_argument("--csv", type=Path, metavar="FILE", help="follow a CSV file that grows")
    group.add_argument("--codes", type=Path, metavar="FILE", help="TOML: codes and units of your own")
    group.add_argument("--ward", default="icu", metavar="NAME", help="second level of MQTT topics; default icu")
    group.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen; default loopback")
    group.add_argument("--ca-file", type=Path, metavar="FILE", help="authorities of the other side's certificates")
    group.add_argument("--certificate-file", type=Path, metavar="FILE", help="our certificate, PEM")
    group.add_argument("--key-file", type=Path, metavar="FILE", help="its private key, PEM")
    group.add_argument("--login-file", type=Path, metavar="FILE", help="one line, user:password, for MQTT")
    group.add_argument("--token-file", type=Path, metavar="FILE", help="one line, what FHIR requests must bear")


def check_sources(args: argparse.Namespace) -> bool:
    """Whether monitors are named; they and a rehearsal exclude each other.

    Raises:
        InputError: neither or both.
    """
    has_monitors = any(way is not None for way in (args.mqtt, args.mllp, args.fhir, args.csv))
    if (args.rehearse is None) == (not has_monitors):
        raise InputError(
            f"expected either --rehearse, or any of {_NAMES} with a --roster",
            hint="smallhold bedside BUNDLE --rehearse mqtt --simulated --speed 60",
        )
    return has_monitors


def connect(args: argparse.Namespace, stack: ExitStack, folder: Path, *, is_simulated: bool) -> list[Source]:
    """What readings come from, not yet started."""
    from smallhold.assist.sources.address import Credentials, parse_address
    from smallhold.assist.sources.csv_file import CsvSource
    from smallhold.assist.sources.fhir_server import FhirOptions, FhirSource
    from smallhold.assist.sources.intake import Intake
    from smallhold.assist.sources.mllp import MllpOptions, MllpSource
    from smallhold.assist.sources.mqtt import MqttOptions, MqttSource, read_login
    from smallhold.assist.sources.secret_file import read_secret
    from smallhold.cli.rehearsal import start_broker
    from smallhold.sectors.hospital.codes import HospitalCodes

    codes = HospitalCodes() if args.codes is None else HospitalCodes.from_file(args.codes)
    credentials = Credentials(ca_file=args.ca_file, certificate_file=args.certificate_file, key_file=args.key_file)
    own = credentials if args.certificate_file is not None else None  # a server's, and only then TLS

    def intake(name: str) -> Intake:
        return Intake(name, codes, simulated=is_simulated)

    sources: list[Source] = []
    url = start_broker(stack, folder) if args.rehearse in ("mqtt", "both") else args.mqtt
    port = 0 if args.rehearse in ("mllp", "both") else args.mllp
    if url is not None:
        options = MqttOptions(
            address=parse_address(url),
            ward=args.ward,
            client_id=f"smallhold-{args.ward}",
            credentials=credentials,
            login=None if args.login_file is None else read_login(read_secret(args.login_file, "login file")),
        )
        sources.append(MqttSource(options, intake("mqtt")))
    if port is not None:
        sources.append(MllpSource(MllpOptions(host=args.host, port=port, credentials=own), intake("mllp")))
    if args.fhir is not None:
        token = None if args.token_file is None else read_secret(args.token_file, "token file")
        door = FhirOptions(host=args.host, port=args.fhir, token=token, credentials=own)
        sources.append(FhirSource(door, intake("fhir"), codes))
    if args.csv is not None:
        sources.append(CsvSource(args.csv, intake("csv"), follow=True))
    return sources


def addresses(sources: list[Source]) -> list[str]:
    """Where each of the sources of a rehearsal can be reached."""
    from smallhold.assist.sources.mllp import MllpSource
    from smallhold.assist.sources.mqtt import MqttSource

    found = [str(source.address) for source in sources if isinstance(source, MqttSource)]
    return found + [f"mllp://127.0.0.1:{source.port}" for source in sources if isinstance(source, MllpSource)]
