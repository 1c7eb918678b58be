"""Keys and certificates of a deployment: an authority, the server's certificate, a key for each node."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from smallhold.device.durable_file import write_durably

_LIFETIME = timedelta(days=365)
#: What the server is called by programs on its own machine.
_OWN_NAMES = ("localhost", "127.0.0.1")


@dataclass(frozen=True, slots=True)
class Authority:
    """Who says which server is the deployment's.

    Attributes:
        key: Private.
        certificate: What everybody trusts.
    """

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def new_authority(unit: str = "") -> Authority:
    """An authority for a year.

    Args:
        unit: What it is for; stands in its certificate as the organisational unit, at most 64 letters (RFC 5280, A.1).
    """
    key = generate_key()
    name = name_of("smallhold federation", unit)
    usage = x509.KeyUsage(
        key_cert_sign=True, crl_sign=True, digital_signature=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    root = _certificate(name, name, key.public_key(), key.public_key(), is_authority=True)
    return Authority(key, root.add_extension(usage, critical=True).sign(key, SHA256()))


def certify_server(authority: Authority, key: ec.EllipticCurvePublicKey, host: str = "localhost") -> x509.Certificate:
    """A server's certificate for a year, for a host name or an IPv4 address, and for programs on its own machine."""
    issuer = authority.certificate.subject
    leaf = _certificate(name_of(host), issuer, key, authority.key.public_key(), is_authority=False)
    names = [_alternative(name) for name in dict.fromkeys((host, *_OWN_NAMES))]
    return leaf.add_extension(x509.SubjectAlternativeName(names), critical=False).sign(authority.key, SHA256())


def make_credentials(folder: Path, nodes: tuple[str, ...]) -> None:
    """Write what is not there yet: `ca.crt`, `server.pem`, `server.key`, and `NODE.key` with `NODE.pub` for each node.

    Private keys are readable by their owner alone. The authority's own key is not kept: nobody can make a second
    server.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (folder / "server.pem").exists():
        authority, key = new_authority(), generate_key()
        write_certificate(folder / "ca.crt", authority.certificate)
        write_key(folder / "server.key", key)
        write_certificate(folder / "server.pem", certify_server(authority, key.public_key()))
    for node in nodes:
        if not (folder / f"{node}.pub").exists():
            own = generate_key()
            write_key(folder / f"{node}.key", own, PrivateFormat.OpenSSH)
            write_durably(folder / f"{node}.pub", [node_line(own.public_key())], mode=0o644)


def generate_key() -> ec.EllipticCurvePrivateKey:
    """A new private key, on the curve that Flower takes for its nodes."""
    return ec.generate_private_key(ec.SECP384R1())


def node_line(key: ec.EllipticCurvePublicKey) -> bytes:
    """A node's public key as Flower registers it."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def write_key(path: Path, key: ec.EllipticCurvePrivateKey, form: PrivateFormat = PrivateFormat.PKCS8) -> None:
    """Write a private key that its owner alone may read; of a node in OpenSSH's form."""
    write_durably(path, [key.private_bytes(Encoding.PEM, form, NoEncryption())])


def write_certificate(path: Path, certificate: x509.Certificate) -> None:
    """Write a certificate for everybody to read."""
    write_durably(path, [certificate.public_bytes(Encoding.PEM)], mode=0o644)


def name_of(common: str, unit: str = "") -> x509.Name:
    """A subject's name."""
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    return x509.Name(parts + ([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit)] if unit else []))


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.IPv4Address(name))
    except ValueError:
        return x509.DNSName(name)


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    *,
    is_authority: bool,
) -> x509.CertificateBuilder:
    """Without the identifiers of both keys, Python from 3.13 on takes no certificate (RFC 5280, 4.2.1.1)."""
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )
