"""Who may call a CDS service: JSON Web Tokens of CDS Hooks 2.0, "Trusting CDS Clients".

A client signs a token for every call with its own private key, ES384 or RS384. Its public keys are configured here; a
key set that a token points to (`jku`) is never fetched: this machine calls nobody.
"""

from __future__ import annotations

import base64
import threading
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from smallhold.assist.sources.strict_json import MalformedError, parse_json
from smallhold.errors import InputError, RecipeError

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
MAX_TOKEN_BYTES = 8192
LONGEST_LIFE_SECONDS = 300
_LEEWAY_SECONDS = 30
_MOST_REMEMBERED = 100_000


class TokenError(Exception):
    """A token is not taken; the text says why and repeats nothing of it."""


@dataclass(frozen=True, slots=True)
class Client:
    """One CDS client.

    Attributes:
        issuer: `iss` of its tokens.
        keys: Key id (`kid`) to public key.
    """

    issuer: str
    keys: Mapping[str, PublicKey]


def read_clients(path: Path) -> tuple[Client, ...]:
    """Clients from a TOML file: `[[client]]` with `iss` and a table `keys` of key id -> PEM file, beside the file.

    Raises:
        RecipeError: the file is missing, not TOML, names no client, or has an entry that is not documented.
        InputError: a key is missing, or neither of curve P-384 nor RSA of at least 2048 bits.
    """
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: cannot be read as TOML: {error}") from error
    tables = value.get("client")
    if set(value) != {"client"} or not isinstance(tables, list) or not tables:
        raise RecipeError(f"{path}: expected [[client]] tables and nothing else, got {sorted(value)}")
    clients: dict[str, Client] = {}
    for table in tables:
        issuer, keys = table.get("iss"), table.get("keys")
        is_named = isinstance(keys, dict) and bool(keys) and all(isinstance(item, str) for item in keys.values())
        if set(table) != {"iss", "keys"} or not isinstance(issuer, str) or not issuer or not is_named:
            raise RecipeError(f"{path}: client: expected iss and a table keys of KID = PEM file, got {sorted(table)}")
        if issuer in clients:
            raise RecipeError(f"{path}: client {issuer!r} stands there twice")
        clients[issuer] = Client(issuer, {kid: load_client_key(path.parent / name) for kid, name in keys.items()})
    return tuple(clients.values())


def load_client_key(path: Path) -> PublicKey:
    """A client's public key, PEM.

    Raises:
        InputError: missing, or neither of curve P-384 nor RSA of at least 2048 bits.
    """
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise InputError(f"key of a CDS client: {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"key of a CDS client: {path}: expected a public key in PEM") from error
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
        return key
    raise InputError(f"key of a CDS client: {path}: expected curve P-384 (ES384) or RSA of 2048 bits (RS384)")


class TokenGate:
    """Checks tokens; each is taken once (`jti`). Safe from any thread.

    Args:
        clients: Who may call.
        audience: Base URL under which clients call, without a slash at the end; `aud` must be the URL that is called.
        clock: Seconds UTC.
    """

    def __init__(self, clients: tuple[Client, ...], audience: str, *, clock: Callable[[], float] = time.time) -> None:
        self._clients = {client.issuer: client for client in clients}
        self._audience, self._clock = audience.rstrip("/"), clock
        self._used: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def check(self, authorization: str, path: str) -> str:
        """The issuer of the token in an `Authorization` header.

        Args:
            authorization: The header.
            path: Of the URL that is called.

        Raises:
            TokenError: there is no token, or it is not taken.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > MAX_TOKEN_BYTES:
            raise TokenError("expected 'Bearer' and a JSON Web Token")
        parts = token.split(".")
        if len(parts) != 3:
            raise TokenError("expected a signed JSON Web Token of three parts")
        header, claims = _json(parts[0]), _json(parts[1])
        issuer = claims.get("iss")
        client = self._clients.get(issuer) if isinstance(issuer, str) else None
        kid = header.get("kid")
        key = client.keys.get(kid) if client is not None and isinstance(kid, str) else None
        if client is None or key is None:
            raise TokenError("iss and kid: no such client, or no such key of it")
        if "crit" in header:
            raise TokenError("crit: no extension is understood")
        _verify(key, header.get("alg"), f"{parts[0]}.{parts[1]}".encode(), _bytes(parts[2]))
        self._check_claims(claims, path)
        self._use(client.issuer, claims)
        return client.issuer

    def _check_claims(self, claims: Mapping[str, Any], path: str) -> None:
        audience = claims.get("aud")
        if self._audience + path not in (audience if isinstance(audience, list) else [audience]):
            raise TokenError("aud: expected the URL that is called")
        issued, expires, now = claims.get("iat"), claims.get("exp"), self._clock()
        if type(issued) not in (int, float) or type(expires) not in (int, float):
            raise TokenError("iat and exp: expected numbers")
        assert isinstance(issued, int | float) and isinstance(expires, int | float)  # noqa: S101 - for the type checker
        if not now - LONGEST_LIFE_SECONDS - _LEEWAY_SECONDS <= issued <= now + _LEEWAY_SECONDS:
            raise TokenError("iat: issued too long ago, or in the future")
        if not now - _LEEWAY_SECONDS < expires or expires - issued > LONGEST_LIFE_SECONDS:
            raise TokenError(f"exp: over, or more than {LONGEST_LIFE_SECONDS} s after iat")

    def _use(self, issuer: str, claims: Mapping[str, Any]) -> None:
        name = claims.get("jti")
        if not isinstance(name, str) or not 1 <= len(name) <= 256:
            raise TokenError("jti: expected a text of 1 to 256 characters")
        with self._lock:
            now = self._clock()
            if len(self._used) >= _MOST_REMEMBERED:
                self._used = {key: until for key, until in self._used.items() if until > now}
            if len(self._used) >= _MOST_REMEMBERED:
                raise TokenError("jti: too many calls at this time")  # forgetting one would let it be used again
            if (issuer, name) in self._used:
                raise TokenError("jti: used before")
            self._used[issuer, name] = float(claims["exp"]) + _LEEWAY_SECONDS


def _verify(key: PublicKey, algorithm: Any, signed: bytes, signature: bytes) -> None:
    """The key decides which algorithm is right, never the token."""
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and algorithm == "ES384" and len(signature) == 96:
            r, s = int.from_bytes(signature[:48]), int.from_bytes(signature[48:])
            key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA384()))
            return
        if isinstance(key, rsa.RSAPublicKey) and algorithm == "RS384":
            key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA384())
            return
    except InvalidSignature as error:
        raise TokenError("the signature does not match") from error
    raise TokenError("alg: expected ES384 for a key of curve P-384, RS384 for an RSA key")


def _bytes(part: str) -> bytes:
    try:
        return base64.b64decode(part.encode("ascii") + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise TokenError("expected base64url") from error


def _json(part: str) -> dict[str, Any]:
    try:
        value = parse_json(_bytes(part), max_bytes=MAX_TOKEN_BYTES)
    except MalformedError as error:
        raise TokenError("expected JSON objects in the token") from error
    if not isinstance(value, dict):
        raise TokenError("expected JSON objects in the token")
    return value
