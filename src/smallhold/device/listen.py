"""A listening socket for servers of every kind."""

from __future__ import annotations

import ipaddress
import socket

from smallhold.errors import InputError


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on.

    Raises:
        InputError: the address does not exist here, or is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With its protocol named: asyncio sends small answers at once on such sockets alone, on others 40 ms later.
        found = socket.socket(family, kind, protocol)
        # A port that a killed server held is free at once.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            hint="another program may use the port: --port 0 takes a free one",
        ) from error
    return found


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, and no name that somebody else may point elsewhere.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("example.org")
    (True, True, False, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
