"""How a site comes in: it makes its keys, sends a request with the public halves, and the operator admits it.

A request is one or two certificate signing requests (RFC 2986) in a PEM file: of the key by which Flower knows the
site's node, and of the key for secure sums where the job takes them. Each is signed by its own key, so that nobody asks
with somebody else's; who asks is told by the fingerprint, which travels by another way than the request.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)
from cryptography.x509.oid import NameOID

from smallhold.device.durable_file import write_durably
from smallhold.device.trust import load_private_key
from smallhold.errors import InputError
from smallhold.federate.engines.flower.credentials import generate_key, name_of, node_line, write_key
from smallhold.federate.job import FederatedJob, read_job
from smallhold.federate.machines.machine import JOB, KEYS, NODE_KEY, NODES, REQUEST, read_machine
from smallhold.federate.members import FOLDER as MEMBERS
from smallhold.federate.members import KEY, make_key

OPERATOR, REQUESTS = "operator", "requests"
#: A fingerprint is compared from this many hexadecimal digits on: 80 bits.
LEAST_DIGITS = 20
_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE REQUEST-----.+?-----END CERTIFICATE REQUEST-----\n?", re.DOTALL)
_MOST_BYTES = 1 << 16


def make_request(folder: Path) -> str:
    """Make a site's keys and its request; what is there stays.

    Args:
        folder: Of the site, on its own machine.

    Returns:
        The fingerprint of the request.

    Raises:
        RecipeError: not the folder of a machine.
        InputError: the folder of the server, or a key that is there cannot be read.
    """
    machine = read_machine(folder)
    if not machine.site:
        raise InputError(
            f"{folder}: expected a site's folder, got the server's: its keys are made by prepare",
            hint=f"smallhold federate check {folder}",
        )
    if not (folder / REQUEST).exists():
        subject = x509.CertificateSigningRequestBuilder().subject_name(name_of(machine.site, machine.digest))
        if not (folder / NODE_KEY).exists():
            write_key(folder / NODE_KEY, generate_key(), PrivateFormat.OpenSSH)
        asked = [subject.sign(load_node_key(folder / NODE_KEY), SHA256())]
        if read_job(folder / JOB).upload.is_hidden:
            make_key(folder / KEYS / KEY)
            asked.append(subject.sign(load_private_key(folder / KEYS / KEY), None))
        write_durably(folder / REQUEST, [part.public_bytes(Encoding.PEM) for part in asked], mode=0o644)
    return fingerprint(folder / REQUEST)


def admit(out: Path, request: Path, told: str) -> str:
    """Let a site in: its public keys go into the folders of the machines that have to know them.

    Args:
        out: Folder of the folders that were prepared.
        request: What the site sent.
        told: The fingerprint that the site told, or its beginning.

    Returns:
        The site's name.

    Raises:
        InputError: the fingerprint is another, the request is malformed, forged, of another job or site, or the site
            was admitted with another key.
        RecipeError: nothing was prepared in `out`.
    """
    digits = re.sub(r"[\s:]", "", told).lower()
    if len(digits) < LEAST_DIGITS or re.search(r"[^0-9a-f]", digits):
        raise InputError(f"--fingerprint: expected at least {LEAST_DIGITS} hexadecimal digits, got {told!r}")
    found = fingerprint(request)
    if not found.startswith(digits):
        raise InputError(
            f"{request}: expected the fingerprint {digits[:LEAST_DIGITS]}…, got {found[:LEAST_DIGITS]}…",
            hint="this is not what the site made: ask for it again, by another way",
        )
    job = read_job(out / OPERATOR / JOB)
    site = read_request(request, job)[0]
    kept = out / OPERATOR / REQUESTS / f"{site}.pem"
    if kept.exists() and kept.read_bytes() != _read(request):
        raise InputError(
            f"site {site}: was admitted with another key, {fingerprint(kept)[:LEAST_DIGITS]}…",
            hint=f"if the site lost its key: remove {kept}, admit again, and `flwr supernode unregister` the old one",
        )
    kept.parent.mkdir(exist_ok=True, mode=0o700)
    write_durably(kept, [_read(request)])
    share_keys(out, job)
    return site


def read_request(path: Path, job: FederatedJob) -> tuple[str, ec.EllipticCurvePublicKey, Ed25519PublicKey | None]:
    """Site, key of its node, and key for secure sums of a request.

    Raises:
        InputError: malformed, not signed by its own keys, of another job or of a site that the job does not know.
    """
    parts = [_part(path, block) for block in _BLOCK.findall(_read(path))]
    keys = [part.public_key() for part in parts]
    node = keys[0] if keys else None
    secret = keys[1] if len(keys) == 2 else None
    if len(keys) != 1 + job.upload.is_hidden or not isinstance(node, ec.EllipticCurvePublicKey):
        raise _malformed(path)
    if secret is not None and not isinstance(secret, Ed25519PublicKey):
        raise _malformed(path)
    names = {
        (_attribute(part, NameOID.COMMON_NAME), _attribute(part, NameOID.ORGANIZATIONAL_UNIT_NAME)) for part in parts
    }
    site, digest = names.pop()
    if names:
        raise _malformed(path)
    if digest != job.digest:
        raise InputError(f"{path}: a request for another job: expected {job.digest[:16]}, got {digest[:16]!r}")
    if site not in job.sites:
        raise InputError(f"{path}: site {site!r}: expected one of {', '.join(sorted(job.sites))}")
    return site, node, secret


def share_keys(out: Path, job: FederatedJob) -> None:
    """Put the public keys of all admitted sites where they belong, in the folders that are there."""
    operator = out / OPERATOR
    for request in sorted((operator / REQUESTS).glob("*.pem")):
        site, node, secret = read_request(request, job)
        if (out / "server" / NODES).is_dir():
            write_durably(out / "server" / NODES / f"{site}.pub", [node_line(node)], mode=0o644)
        if secret is not None:
            pem = secret.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            (operator / MEMBERS / "sites").mkdir(parents=True, exist_ok=True)
            write_durably(operator / MEMBERS / "sites" / f"{site}.pem", [pem], mode=0o644)
    if (operator / MEMBERS).is_dir():
        for folder in (out / "server", *(out / f"site-{site}" for site in job.sites)):
            if folder.is_dir():
                shutil.copytree(operator / MEMBERS, folder / MEMBERS, dirs_exist_ok=True)


def load_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a node's private key.

    Raises:
        InputError: absent, unreadable or of another kind.
    """
    try:
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: not a readable private key of a node: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError(f"{path}: expected an elliptic-curve key, got another kind")
    return key


def fingerprint(path: Path) -> str:
    """SHA-256 of a request, as `sha256sum` gives it."""
    return hashlib.sha256(_read(path)).hexdigest()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _part(path: Path, block: bytes) -> x509.CertificateSigningRequest:
    try:
        part = x509.load_pem_x509_csr(block)
        if part.is_signature_valid:
            return part
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _malformed(path) from error
    raise InputError(f"{path}: not signed by the key that it asks for")


def _attribute(part: x509.CertificateSigningRequest, which: x509.ObjectIdentifier) -> str:
    found = part.subject.get_attributes_for_oid(which)
    return str(found[0].value) if len(found) == 1 else ""


def _malformed(path: Path) -> InputError:
    return InputError(
        f"{path}: not a request that `smallhold federate join-request` made for this job",
        hint="ask the site for its request.pem",
    )
