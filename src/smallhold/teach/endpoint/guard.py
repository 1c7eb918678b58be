"""Which rows may be sent where: the one rule, asked by the one place that sends.

Public rows may go to any endpoint over https. Rows about patients or customers stay on this machine, unless the
recipe names the endpoint's origin for that kind of row. This machine is an address of the loopback interface;
`docs/pitfalls/endpoint.md` says what this rule cannot see.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from smallhold.errors import EgressError, RecipeError
from smallhold.sectors.data_sets import Privacy

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Allow:
    """Origins, for example `https://llm.hospital.example`, that rows of each kind may be sent to.

    Attributes:
        patient: For rows about patients.
        customer: For rows about customers.
    """

    patient: tuple[str, ...] = ()
    customer: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what is no origin: a path or a wildcard would be believed to mean something."""
        for name in (*self.patient, *self.customer):
            if origin_of(name) != name:
                raise RecipeError(f"endpoint.allow: expected origins such as {origin_of(name)!r}, got {name!r}")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where requests go.

    Attributes:
        origin: Scheme, host and port as the recipe says.
        url: Base URL with the address that was resolved, when that is this machine: a name that is looked up again
            could by then mean another one.
        is_this_machine: Only the loopback interface is used.
    """

    origin: str
    url: str
    is_this_machine: bool


def find_destination(base_url: str) -> Destination:
    """Look at a base URL; no connection is opened, and only the name `localhost` is looked up.

    Raises:
        RecipeError: not a URL, with a password, a query or a fragment, or plain http to another machine.
    """
    parts = _split(base_url)
    address = _loopback_address(parts.hostname or "")
    if address is None and parts.scheme != "https":
        raise RecipeError(f"endpoint: expected https, or an address of this machine, got {origin_of(base_url)}")
    path = parts.path.rstrip("/")
    host = _netloc(parts.hostname or "", parts) if address is None else _netloc(address, parts)
    return Destination(origin_of(base_url), f"{parts.scheme}://{host}{path}", address is not None)


def origin_of(url: str) -> str:
    """Scheme, host and port, the port only where it is not the scheme's own.

    Raises:
        RecipeError: see `find_destination`.

    >>> origin_of("https://Models.example:443/inference/")
    'https://models.example'
    """
    parts = _split(url)
    return f"{parts.scheme}://{_netloc(parts.hostname or '', parts)}"


def require_allowed(privacy: Privacy, destination: Destination, allow: Allow) -> None:
    """Refuse rows that may not be sent there.

    Raises:
        EgressError: they may not; the message names the kind of row and the origin, never the row.
    """
    if privacy is Privacy.PUBLIC or destination.is_this_machine:
        return
    if destination.origin not in (allow.patient if privacy is Privacy.PATIENT else allow.customer):
        raise EgressError(
            f"rows of class {privacy.value!r} may not be sent to {destination.origin}: they stay on this machine",
            hint=f'if you may disclose them there: [endpoint.allow] {privacy.value} = ["{destination.origin}"]',
        )


def _split(url: str) -> SplitResult:
    # A URL with a password in it must not be printed: messages show as much as is known to hold no secret.
    try:
        parts = urlsplit(url)
        port_is_valid = parts.port != 0
    except ValueError:
        raise RecipeError("endpoint: expected a URL such as https://host/v1, got something malformed") from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise RecipeError(
            "endpoint: expected a URL without user, password, query and fragment",
            hint="the key belongs into an environment variable, named by endpoint.api_key_env",
        )
    is_plain = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in _PORTS or not parts.hostname or not port_is_valid or not is_plain:
        raise RecipeError("endpoint: expected a URL such as https://host/v1, got something else")
    return parts


def _netloc(host: str, parts: SplitResult) -> str:
    written = f"[{host}]" if ":" in host else host
    return written if parts.port in (None, _PORTS[parts.scheme]) else f"{written}:{parts.port}"


def _loopback_address(host: str) -> str | None:
    """The address when the host is this machine: a loopback address, or `localhost` where it means nothing else."""
    if host != "localhost":
        try:
            return host if ipaddress.ip_address(host).is_loopback else None
        except ValueError:
            return None
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return None
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(ipaddress.ip_address(address).is_loopback for address in addresses):
        return None
    return next((address for address in addresses if ":" not in address), addresses[0])
