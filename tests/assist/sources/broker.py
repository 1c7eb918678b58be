"""A real mosquitto on a free port of loopback, with certificates made on the spot."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


def mosquitto() -> str:
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        pytest.skip("mosquitto is missing: make system")
    return program


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_certificates(folder: Path, stranger: bool = False) -> dict[str, Path]:
    """`ca.pem`, and `server` and `client` pairs signed by it; as a stranger's they come from another authority."""
    folder.mkdir(parents=True, exist_ok=True)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stranger" if stranger else "ward authority")])
    authority = ec.generate_private_key(ec.SECP256R1())
    files = {"ca": folder / "ca.pem"}
    _write_certificate(files["ca"], _builder(name, name, authority).add_extension(_ca(), True), authority)
    for who in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who)])
        builder = _builder(subject, name, key).add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            False,
        )
        files[who] = folder / f"{who}.pem"
        files[f"{who}_key"] = folder / f"{who}-key.pem"
        _write_certificate(files[who], builder, authority)
        files[f"{who}_key"].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return files


def _ca() -> x509.BasicConstraints:
    return x509.BasicConstraints(ca=True, path_length=0)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
    )


def _write_certificate(path: Path, builder: x509.CertificateBuilder, authority: ec.EllipticCurvePrivateKey) -> None:
    certificate = builder.sign(authority, hashes.SHA256())
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


class Broker:
    """Starts, is killed, and starts again on the same port with what it kept."""

    def __init__(self, folder: Path, *, settings: str = "allow_anonymous true") -> None:
        self.port = free_port()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nuser root\npersistence true\npersistence_location {folder}/\n"
            f"log_type error\nlog_type warning\nmax_queued_messages 100000\n{settings}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Broker:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([mosquitto(), "-c", str(self._config)], stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                time.sleep(0.02)
        raise AssertionError((self._folder / "log").read_text())

    def stop(self, *, hard: bool = False) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL if hard else signal.SIGTERM)
            self._process.wait(10)
            self._process = None
