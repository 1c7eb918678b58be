"""Whether a machine is in order, as whoever looks after it can see: one line for each thing that is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from smallhold.device.trust import load_private_key, load_public_key
from smallhold.errors import InputError, SmallholdError
from smallhold.federate.job import read_job
from smallhold.federate.machines.admission import load_node_key, read_request
from smallhold.federate.machines.machine import (
    ABOUT,
    AUTHORITY,
    HOLDINGS,
    JOB,
    KEYS,
    NODE_KEY,
    NODES,
    REQUEST,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    Machine,
    read_machine,
)
from smallhold.federate.machines.reach import look_at_server
from smallhold.federate.members import FOLDER as MEMBERS
from smallhold.federate.members import KEY
from smallhold.federate.tasks import find_federated_task
from smallhold.sectors.splits import Split


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: In a word or two.
        said: How it stands, or what is wrong.
        is_good: Whether it is in order.
    """

    what: str
    said: str
    is_good: bool


def check_machine(
    folder: Path, data_dir: Path | None, *, now: datetime, timeout_seconds: float = 10.0
) -> list[Finding]:
    """Look at everything that this machine can say about itself.

    Args:
        folder: Of the machine.
        data_dir: Where data sets lie; None: where the services look.
        now: The present moment, with its time zone.
        timeout_seconds: For each question to the network.

    Raises:
        RecipeError: not the folder of a machine.
    """
    machine = read_machine(folder)
    data = HOLDINGS / "data" if data_dir is None else data_dir
    looks: list[tuple[str, Callable[[], str]]] = [
        ("job", lambda: _job(folder, machine)),
        ("authority", lambda: _valid(_certificate(folder / AUTHORITY), AUTHORITY, now)),
        ("modes", lambda: _modes(folder)),
    ]
    if machine.site:
        looks += [
            ("keys", lambda: _site_keys(folder, machine)),
            ("members", lambda: _members(folder, machine)),
            ("data", lambda: _data(folder, machine, data)),
            ("server", lambda: look_at_server(machine, folder / AUTHORITY, timeout_seconds=timeout_seconds)),
        ]
    else:
        looks += [
            ("certificate", lambda: _server_certificate(folder, machine, now)),
            ("sites", lambda: _admitted(folder)),
            ("members", lambda: _members(folder, machine)),
            ("port", lambda: _port(folder, machine, timeout_seconds)),
        ]
    return [_look(what, look) for what, look in looks]


def _look(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, look(), True)
    except SmallholdError as error:
        return Finding(what, f"{error} ({error.hint})" if error.hint else str(error), False)
    except OSError as error:
        return Finding(what, f"{error.filename}: {error.strerror}" if error.filename else str(error), False)


def _job(folder: Path, machine: Machine) -> str:
    """The authority's certificate names the job: who trusts the same authority has the same job."""
    job = read_job(folder / JOB)
    unit = _certificate(folder / AUTHORITY).subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    for where, digest in ((ABOUT, machine.digest), (AUTHORITY, str(unit[0].value) if unit else "none")):
        if digest != job.digest:
            raise InputError(f"{JOB} is not the job that {where} names: expected {digest[:16]}, got {job.digest[:16]}")
    return f"{job.name}, {job.digest[:16]}"


def _modes(folder: Path) -> str:
    """Private keys are their owner's alone, and so is the folder of the keys."""
    looked = [folder / KEYS, *sorted((folder / KEYS).glob("*.key"))]
    for path in looked:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            right = "700" if path.is_dir() else "600"
            raise InputError(f"{path}: others may read it (mode {mode:o}), expected {right}: chmod {right} {path}")
    return f"{len(looked) - 1} private keys, for their owner alone"


def _site_keys(folder: Path, machine: Machine) -> str:
    job = read_job(folder / JOB)
    if not (folder / REQUEST).exists():
        raise InputError(f"{REQUEST}: not made yet (smallhold federate join-request {folder})")
    site, node, secret = read_request(folder / REQUEST, job)
    if site != machine.site:
        raise InputError(f"{REQUEST}: of site {site}, and this is {machine.site}")
    if load_node_key(folder / NODE_KEY).public_key() != node:
        raise InputError(f"{NODE_KEY}: not the key that {REQUEST} asks to admit")
    if secret is not None and load_private_key(folder / KEYS / KEY).public_key() != secret:
        raise InputError(f"{KEYS}/{KEY}: not the key that {REQUEST} asks to admit")
    return f"of site {site}, as {REQUEST} says"


def _server_certificate(folder: Path, machine: Machine, now: datetime) -> str:
    certificate = _certificate(folder / SERVER_CERTIFICATE)
    try:
        key = load_pem_private_key((folder / SERVER_KEY).read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise InputError(f"{SERVER_KEY}: not a readable private key: {error}") from error
    if key.public_key() != certificate.public_key():
        raise InputError(f"{SERVER_KEY}: not the key of {SERVER_CERTIFICATE}")
    try:
        certificate.verify_directly_issued_by(_certificate(folder / AUTHORITY))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise InputError(f"{SERVER_CERTIFICATE}: not issued by {AUTHORITY}: of another federation") from error
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    hosts = [str(name.value) for name in names]
    if machine.host not in hosts:
        raise InputError(f"{SERVER_CERTIFICATE}: for {', '.join(hosts)}, and sites ask for {machine.host}")
    return f"for {machine.host}, {_valid(certificate, SERVER_CERTIFICATE, now)}"


def _valid(certificate: x509.Certificate, name: str, now: datetime) -> str:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin:
        raise InputError(
            f"{name}: valid from {begin:%Y-%m-%d %H:%M} UTC, and this machine's clock says {now:%Y-%m-%d %H:%M}"
        )
    if now >= end:
        raise InputError(
            f"{name}: expired on {end:%Y-%m-%d %H:%M} UTC, and this machine's clock says {now:%Y-%m-%d %H:%M}"
        )
    return f"valid for {(end - now).days} days"


def _admitted(folder: Path) -> str:
    """All sites of the job, each with a key of its own: the first that speaks for a site is believed."""
    sites, seen = sorted(read_job(folder / JOB).sites), dict[bytes, str]()
    for site in sites:
        path = folder / NODES / f"{site}.pub"
        if not path.exists():
            raise InputError(f"site {site}: not admitted yet (smallhold federate admit, then copy {NODES}/ here)")
        if (other := seen.setdefault(path.read_bytes(), site)) != site:
            raise InputError(f"site {site}: has the key of site {other}")
    return f"{len(sites)} of {len(sites)} admitted"


def _members(folder: Path, machine: Machine) -> str:
    job = read_job(folder / JOB)
    if not job.upload.is_hidden:
        return "the job takes no secure sums"
    own = f"sites/{machine.site}.pem" if machine.site else "server.pem"
    for name in ("server.pem", *(f"sites/{site}.pem" for site in sorted(job.sites))):
        path = folder / MEMBERS / name
        if not path.exists():
            raise InputError(f"{MEMBERS}/{name}: missing (the operator sends {MEMBERS}/ when all sites are admitted)")
        key = load_public_key(path)
        if name == own and load_private_key(folder / KEYS / KEY).public_key() != key:
            raise InputError(f"{MEMBERS}/{name}: not the public half of {KEYS}/{KEY}")
    return f"keys of the server and of {len(job.sites)} sites"


def _data(folder: Path, machine: Machine, data: Path) -> str:
    job = read_job(folder / JOB)
    task = find_federated_task(job.task)
    rows = task.rows(job, data, Split.TRAIN)
    if machine.site not in rows:
        raise InputError(f"{task.data_set}: no rows of {machine.site}; there are rows of {', '.join(rows)}")
    return f"{task.data_set}, {len(rows[machine.site])} rows to train on"


def _port(folder: Path, machine: Machine, timeout_seconds: float) -> str:
    """Nobody there yet, or our own server; whether the network lets sites through, only a site can say."""
    try:
        return look_at_server(machine, folder / AUTHORITY, address="127.0.0.1", timeout_seconds=timeout_seconds)
    except ConnectionRefusedError:
        return f"{machine.port} is free: nothing was started yet"


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: not a certificate: {error}") from error
