"""Who may give this device a bundle: ed25519 keys, and the order in which a bundle is checked."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from smallhold.device.bundle_files import BundleFiles
from smallhold.device.durable_file import write_new_file
from smallhold.device.envelope import (
    Signatures,
    check_signatures,
    key_id,
    open_envelope,
    pre_authentication_encoding,
    sign_payload,
)
from smallhold.device.manifest import ENVELOPE_NAME, MANIFEST_NAME, Manifest, parse_time, parse_version
from smallhold.errors import (
    BundleError,
    ExpiredError,
    InputError,
    IntegrityError,
    RollbackError,
    SignatureError,
)
from smallhold.version import __version__

__all__ = ["key_id", "pre_authentication_encoding"]  # told here as well: whoever handles keys looks for them here

PAYLOAD_TYPE = "application/vnd.smallhold.manifest+json"
MAX_MANIFEST_BYTES = 8 * 2**20


def generate_private_key() -> Ed25519PrivateKey:
    """A new ed25519 key from the system's random source."""
    return Ed25519PrivateKey.generate()


def save_private_key(key: Ed25519PrivateKey, path: Path) -> None:
    """Write a private key as PEM (PKCS 8, unencrypted), readable by its owner alone.

    Raises:
        InputError: a file is already there (a key is never overwritten), or it could not be written.
    """
    _save_new(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)


def save_public_key(key: Ed25519PublicKey, path: Path) -> None:
    """Write a public key as PEM (SubjectPublicKeyInfo).

    Raises:
        InputError: a file is already there, or it could not be written.
    """
    _save_new(path, key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), mode=0o644)


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Read what `save_private_key` wrote.

    Raises:
        InputError: absent, unreadable, or not an unencrypted ed25519 private key.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _bad_key(path, "private") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _bad_key(path, "private")
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Read what `save_public_key` wrote.

    Raises:
        InputError: absent, unreadable, or not an ed25519 public key.
    """
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _bad_key(path, "public") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _bad_key(path, "public")
    return key


def load_trusted_keys(directory: Path) -> dict[str, Ed25519PublicKey]:
    """Every `*.pem` of a directory by its key id; an absent directory trusts nobody.

    Raises:
        InputError: one of the files is not an ed25519 public key.
    """
    keys = [load_public_key(path) for path in sorted(directory.glob("*.pem"))]
    return {key_id(key): key for key in keys}


def sign_manifest(manifest_bytes: bytes, private_key: Ed25519PrivateKey) -> bytes:
    """The DSSE envelope of a manifest, as stored in `manifest.dsse.json`.

    Raises:
        IntegrityError: the bytes are not a manifest; nothing else is ever signed.
    """
    Manifest.from_bytes(manifest_bytes)
    return sign_payload(manifest_bytes, PAYLOAD_TYPE, private_key)


def verify_bundle(
    files: BundleFiles,
    trusted_keys: Mapping[str, Ed25519PublicKey],
    *,
    now: datetime,
    installed_version: str | None = None,
    installed_digest: str | None = None,
    runtime_version: str | None = None,
) -> Manifest:
    """Decide whether a bundle may be used, in an order that believes nothing before it is proven.

    Args:
        files: The bundle.
        trusted_keys: Key id to key, as `load_trusted_keys` gives them.
        now: The present moment, with its time zone.
        installed_version: The highest version that this device has run; a lower one is refused.
        installed_digest: Manifest digest of that version; the same version with another digest is refused.
        runtime_version: Version of this software, `1.2.3`; default: the one that runs.

    Returns:
        The manifest. Guaranteed: a trusted key signed exactly these bytes, and every file of the bundle, and no
        other, has the size and digest that they say.

    Raises:
        SignatureError: unsigned, not signed by a trusted key, or the envelope is of another manifest.
        IntegrityError: a file is missing, added, altered or of another size, or the manifest is malformed.
        ExpiredError: `now` is at or after the manifest's expiry.
        RollbackError: older than `installed_version`, or another bundle with the same version.
        BundleError: this software is too old for the bundle.
        InputError: `now` has no time zone.
    """
    if now.tzinfo is None:
        raise InputError(f"now: expected a time with its zone, got {now.isoformat()}")
    # (1) The envelope parses.
    payload, signatures = _open_manifest_envelope(files)
    # (2) A trusted key signed it, type included.
    check_signatures(
        payload,
        PAYLOAD_TYPE,
        signatures,
        trusted_keys,
        what="manifest",
        trusted_by="this device",
        hint="if you trust the signer, put its public key (*.pem) into the home's trust/ folder",
    )
    # (3) What was signed is manifest.json, byte for byte.
    if files.read(MANIFEST_NAME, limit=len(payload) + 1) != payload:
        raise SignatureError(f"{MANIFEST_NAME} is not the manifest that was signed: it was altered or swapped")
    # (4) The manifest parses; nothing of the bundle was interpreted before this line.
    manifest = Manifest.from_bytes(payload)
    # (5) This software is new enough to understand it.
    _check_runtime(manifest, runtime_version or _this_runtime())
    # (6) It is still valid.
    if manifest.expires is not None and now >= parse_time(manifest.expires):
        raise ExpiredError(
            f"bundle {manifest.name} {manifest.version} expired at {manifest.expires}, now is {now.isoformat()}",
            hint="install a newer bundle, and check this machine's clock",
        )
    # (7) It is not older than what ran here before.
    _check_not_older(manifest, installed_version, installed_digest)
    # (8) Every file is there, no other is, and each is what the manifest says.
    _check_files(files, manifest)
    return manifest


def unsafe_read_manifest(files: BundleFiles) -> Manifest:
    """The manifest without asking who signed it or whether the files match: for inspection, never for use.

    Raises:
        IntegrityError: the manifest is malformed.
    """
    return Manifest.from_bytes(files.read(MANIFEST_NAME, limit=MAX_MANIFEST_BYTES))


def _open_manifest_envelope(files: BundleFiles) -> tuple[bytes, Signatures]:
    if ENVELOPE_NAME not in files.names():
        raise SignatureError(f"bundle {files.path} is unsigned: it has no {ENVELOPE_NAME}")
    return open_envelope(files.read(ENVELOPE_NAME, limit=2 * MAX_MANIFEST_BYTES), PAYLOAD_TYPE, name=ENVELOPE_NAME)


def _check_runtime(manifest: Manifest, runtime_version: str) -> None:
    if parse_version(runtime_version, member="runtime_version") < parse_version(manifest.minimum_runtime):
        raise BundleError(
            f"bundle {manifest.name} {manifest.version} needs smallhold {manifest.minimum_runtime} or newer, "
            f"this is {runtime_version}",
            hint="pip install --upgrade smallhold",
        )


def _this_runtime() -> str:
    match = re.match(r"[0-9]+\.[0-9]+\.[0-9]+", __version__)
    if match is None:
        raise BundleError(f"this software's version is not known: expected 1.2.3, got {__version__!r}")
    return match.group()  # a development version such as 1.2.3.dev4 counts as 1.2.3


def _check_not_older(manifest: Manifest, installed_version: str | None, installed_digest: str | None) -> None:
    if installed_version is None:
        return
    offered, installed = parse_version(manifest.version), parse_version(installed_version)
    if offered < installed:
        raise RollbackError(
            f"bundle {manifest.name} {manifest.version} is older than {installed_version}, which this device has run",
            hint="to return to the bundle before the last install: smallhold device rollback",
        )
    if offered == installed and installed_digest is not None and manifest.digest != installed_digest:
        raise RollbackError(
            f"bundle {manifest.name} {manifest.version} is another bundle with the version that this device has run: "
            f"expected digest {installed_digest[:16]}, got {manifest.digest[:16]}",
            hint="give the new bundle a higher version",
        )


def _check_files(files: BundleFiles, manifest: Manifest) -> None:
    expected = frozenset(manifest.files) | {MANIFEST_NAME, ENVELOPE_NAME}
    if missing := sorted(expected - files.names()):
        raise IntegrityError(f"bundle {files.path}: file {missing[0]!r} is missing ({len(missing)} in all)")
    if extra := sorted(files.names() - expected):
        raise IntegrityError(f"bundle {files.path}: file {extra[0]!r} is not in the manifest ({len(extra)} in all)")
    for name, entry in sorted(manifest.files.items()):
        digest, size = hashlib.sha256(), 0
        for chunk in files.chunks(name, limit=entry.bytes + 1):
            digest.update(chunk)
            size += len(chunk)
        if size != entry.bytes:
            got = "more" if size > entry.bytes else str(size)
            raise IntegrityError(f"bundle file {name!r}: expected {entry.bytes} bytes, got {got}")
        if digest.hexdigest() != entry.sha256:
            raise IntegrityError(
                f"bundle file {name!r} was altered: expected SHA-256 {entry.sha256[:16]}…, "
                f"got {digest.hexdigest()[:16]}…"
            )


def _save_new(path: Path, data: bytes, *, mode: int) -> None:
    try:
        write_new_file(path, [data], mode=mode)
    except FileExistsError as error:
        raise InputError(f"key file {path} exists already: a key is never overwritten") from error
    except OSError as error:
        raise InputError(f"key file {path} could not be written: {error}") from error


def _bad_key(path: Path, kind: str) -> InputError:
    return InputError(
        f"{path} is not a readable ed25519 {kind} key in PEM form",
        hint="`smallhold device init` makes the keys of a home; delete a damaged key file first",
    )
