"""Whether a server is there, is the one of this federation, and has the same time."""

from __future__ import annotations

import http.client
import socket
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from smallhold.errors import FederationError
from smallhold.federate.machines.machine import Machine

#: What Flower 1.41 takes of a node's clock (SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE).
MOST_AHEAD_SECONDS, MOST_BEHIND_SECONDS = 5.0, 305.0
# OpenSSL's numbers of what is wrong with a certificate (openssl-verification-options(1), x509_vfy.h).
_NOT_YET, _EXPIRED, _OTHER_HOST, _OTHER_ADDRESS = 9, 10, 62, 64


def look_at_server(machine: Machine, authority: Path, *, timeout_seconds: float, address: str = "") -> str:
    """Connect as a site would, and ask for nothing.

    Args:
        machine: Whose server.
        authority: Certificate of the federation's authority.
        timeout_seconds: For each question.
        address: Where to connect; default: the server's host.

    Returns:
        What was found, in a line.

    Raises:
        ConnectionRefusedError: nobody listens; the message says where.
        FederationError: the server cannot be reached, is another one, or the clocks differ more than Flower takes.
    """
    where = f"{machine.host}:{machine.port}"
    try:
        context = ssl.create_default_context(cafile=authority)
        with (
            socket.create_connection((address or machine.host, machine.port), timeout=timeout_seconds) as plain,
            context.wrap_socket(plain, server_hostname=machine.host) as secure,
        ):
            skew = _skew(secure, machine.host)
    except ConnectionRefusedError as error:
        raise ConnectionRefusedError(f"{where}: nobody listens there; is the server started?") from error
    except ssl.SSLCertVerificationError as error:
        raise FederationError(f"{where}: {_wrong(error, machine)}") from error
    except ssl.SSLError as error:
        raise FederationError(f"{where}: answers, and not in TLS: {error.reason or error}") from error
    except socket.gaierror as error:
        raise FederationError(f"{where}: the name {machine.host} is not known here") from error
    except TimeoutError as error:
        raise FederationError(f"{where}: no answer in {timeout_seconds:.0f} s; is the port open to us?") from error
    except (OSError, http.client.HTTPException) as error:
        raise FederationError(f"{where}: cannot be reached: {error}") from error
    return f"{where} is there, of this federation, {judge_skew(skew)}"


def judge_skew(seconds: float) -> str:
    """What a clock that is so many seconds ahead of the server's means.

    Raises:
        FederationError: Flower would refuse the node.
    """
    if not -MOST_BEHIND_SECONDS < seconds < MOST_AHEAD_SECONDS:
        side = "ahead of" if seconds > 0 else "behind"
        raise FederationError(
            f"clock: {abs(seconds):.0f} s {side} the server's; Flower takes {MOST_AHEAD_SECONDS:.0f} s ahead and "
            f"{MOST_BEHIND_SECONDS:.0f} s behind: set it, by NTP"
        )
    return f"clocks within {abs(seconds) + 1:.0f} s"


def _skew(secure: ssl.SSLSocket, host: str) -> float:
    """Seconds that our clock is ahead of the server's, to a second or two: of the date in any answer to us."""
    secure.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer = http.client.HTTPResponse(secure)
    answer.begin()
    now, date = datetime.now(UTC), answer.getheader("date")
    if date is None:
        raise FederationError("answers, and does not say what time it is there: not a server of ours")
    return (now - parsedate_to_datetime(date)).total_seconds()


def _wrong(error: ssl.SSLCertVerificationError, machine: Machine) -> str:
    match error.verify_code:
        case code if code == _NOT_YET:
            return f"its certificate is not valid yet by this machine's clock, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        case code if code == _EXPIRED:
            return f"its certificate expired, by this machine's clock, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        case code if code in (_OTHER_HOST, _OTHER_ADDRESS):
            return f"its certificate is for another host than {machine.host}"
        case _:
            return f"its certificate is of another federation: {error.verify_message}"
