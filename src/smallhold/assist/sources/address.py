"""Addresses of feeds: `mqtt://host:port`, `mqtts://`, `mllp://`, `mllps://`, and which of them may go without TLS."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from smallhold.device.listen import is_loopback
from smallhold.errors import InputError

_PORTS = {"mqtt": 1883, "mqtts": 8883, "mllp": 2575, "mllps": 2575}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a feed is.

    Attributes:
        scheme: `mqtt`, `mqtts`, `mllp` or `mllps`; the last letter s means TLS.
        host: Name or address.
        port: TCP port.
    """

    scheme: str
    host: str
    port: int

    @property
    def uses_tls(self) -> bool:
        """Whether the scheme asks for TLS."""
        return self.scheme.endswith("s")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_address(text: str, *schemes: str) -> Address:
    """Read an address.

    Args:
        text: As typed.
        schemes: Those that are taken; all when none is named.

    Raises:
        InputError: not such an address, or it carries a user or password, which belong into a file.
    """
    allowed = schemes or tuple(_PORTS)
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname
    except ValueError:
        parts, port, host = None, None, None
    if parts is not None and (parts.username is not None or parts.password is not None):
        raise InputError("address: a user or password does not belong into it", hint="give --login-file FILE")
    if (
        parts is None
        or parts.scheme not in allowed
        or not host
        or port == 0
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
    ):
        shown = " or ".join(f"{scheme}://HOST[:PORT]" for scheme in allowed)
        raise InputError(f"address: expected {shown}, got {text!a}")
    return Address(parts.scheme, host, port or _PORTS[parts.scheme])


def check_plaintext(host: str, *, uses_tls: bool, unsafe_plaintext: bool, what: str) -> None:
    """Refuse to send or receive readings of patients between machines without TLS.

    Raises:
        InputError: the host is not this machine, and there is neither TLS nor the word for going without.
    """
    if not uses_tls and not unsafe_plaintext and not is_loopback(host):
        raise InputError(
            f"{what}: {host} is another machine, and without TLS everybody between could read and forge readings",
            hint="use TLS; or say unsafe_plaintext where the network itself is protected",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The files of one side of a TLS connection.

    Attributes:
        ca_file: Certificates of the authorities that the other side's certificate must come from; for a client
            None = those of the system, for a server None = no certificate is asked of clients.
        certificate_file: Our certificate chain, PEM.
        key_file: Its private key, PEM without a passphrase.
    """

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    def client_context(self) -> ssl.SSLContext:
        """Checks the server's certificate and name; TLS 1.2 at least.

        Raises:
            InputError: a file is missing or not what it should be.
        """
        if self.ca_file is None:
            context = ssl.create_default_context()
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            _load(context.load_verify_locations, self.ca_file)
        return self._with_own(context)

    def server_context(self) -> ssl.SSLContext:
        """Shows our certificate, and asks one of every client where there is a `ca_file`; TLS 1.2 at least.

        Raises:
            InputError: there is no certificate, or a file is missing or not what it should be.
        """
        if self.certificate_file is None:
            raise InputError("TLS: a server needs certificate_file and key_file")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self.ca_file is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            _load(context.load_verify_locations, self.ca_file)
        return self._with_own(context)

    def _with_own(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if (self.certificate_file is None) != (self.key_file is None):
            raise InputError("TLS: certificate_file and key_file belong together: expected both or neither")
        if self.certificate_file is not None and self.key_file is not None:
            _load(context.load_cert_chain, self.certificate_file, self.key_file)
        return context


def _load(load: Callable[..., object], *paths: Path) -> None:
    try:
        load(*paths)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise InputError(f"TLS: {' and '.join(map(str, paths))}: expected PEM that fits together: {error}") from error
