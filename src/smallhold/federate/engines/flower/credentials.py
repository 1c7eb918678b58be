"""Keys and certificates of a deployment on one machine: an authority, the server's certificate, a key for each node."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from smallhold.device.durable_file import write_durably

_LIFETIME = timedelta(days=365)


def make_credentials(folder: Path, nodes: tuple[str, ...]) -> None:
    """Write what is not there yet: `ca.crt`, `server.pem`, `server.key`, and `NODE.key` with `NODE.pub` for each node.

    Private keys are readable by their owner alone. The authority's own key is not kept: nobody can make a second
    server.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (folder / "server.pem").exists():
        authority, key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
        issuer = _name("smallhold federation")
        root = _certificate(issuer, issuer, authority.public_key(), is_authority=True).sign(authority, SHA256())
        leaf = _certificate(_name("localhost"), issuer, key.public_key(), is_authority=False)
        alternative = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        signed = leaf.add_extension(alternative, critical=False).sign(authority, SHA256())
        write_durably(folder / "ca.crt", [root.public_bytes(Encoding.PEM)], mode=0o644)
        write_durably(folder / "server.key", [_private(key)])
        write_durably(folder / "server.pem", [signed.public_bytes(Encoding.PEM)], mode=0o644)
    for node in nodes:
        if not (folder / f"{node}.pub").exists():
            own = ec.generate_private_key(ec.SECP384R1())
            public = own.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
            pem = own.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
            write_durably(folder / f"{node}.key", [pem])
            write_durably(folder / f"{node}.pub", [public], mode=0o644)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, is_authority: bool
) -> x509.CertificateBuilder:
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
    )


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
