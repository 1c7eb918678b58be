"""One executable file of engine, model and plan: the engine's program with a verified bundle behind it.

Layout: program, bundle in one file, keys, bytes of the bundle, bytes of the keys, `MAGIC`; the counts are u64, little
endian (`engine/src/app.rs` reads it). The bundle keeps its manifest and its signature, and leaves out files that the
manifest marks for another runtime.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from smallhold.device.bounded_file import read_bounded
from smallhold.device.bundle_files import open_bundle_files
from smallhold.device.durable_file import write_durably
from smallhold.device.manifest import ENVELOPE_NAME, MANIFEST_NAME, FileEntry, Manifest
from smallhold.device.trust import load_trusted_keys, verify_bundle
from smallhold.device.zip_layout import encode_zip
from smallhold.errors import BundleError, InputError

MAGIC = b"smallhold.app/1\n"
_PROGRAM = Path(__file__).parents[3] / "engine" / "target" / "release" / "smallhold-engine"
_MOST_PROGRAM_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class AppSize:
    """What an app weighs.

    Attributes:
        bytes: The whole file.
        program_bytes: The engine's program in it.
        left_out: Files of the bundle that are for other runtimes.
    """

    bytes: int
    program_bytes: int
    left_out: tuple[str, ...]


def find_program() -> Path:
    """Where the engine's program lies: `$SMALLHOLD_ENGINE_PROGRAM`, or where cargo builds it.

    Raises:
        BundleError: nowhere; the hint says how to build it.
    """
    path = Path(os.environ.get("SMALLHOLD_ENGINE_PROGRAM", _PROGRAM))
    if not path.is_file():
        raise BundleError(
            f"the engine's program was not found at {path}",
            hint="cargo build --release --manifest-path engine/Cargo.toml, or give --engine FILE",
        )
    return path


@dataclass(frozen=True, slots=True)
class EngineBundle:
    """A verified bundle in one file, for the engine.

    Attributes:
        manifest: What was verified.
        archive: The single-file form, without files for other runtimes.
        keys: The trusted keys, PEM texts one behind the other.
        left_out: Those files.
    """

    manifest: Manifest
    archive: bytes
    keys: bytes
    left_out: tuple[str, ...]


def bundle_for_engine(bundle: Path, *, trusted_keys: Path, now: datetime) -> EngineBundle:
    """Verify a bundle and keep of it what the engine reads, manifest and signature included.

    Args:
        bundle: A signed bundle, a directory or a single file.
        trusted_keys: Folder of public keys.
        now: Moment that expiry is judged by.

    Raises:
        BundleError: the bundle is not genuine, or has no weights for the engine.
    """
    files = open_bundle_files(bundle)
    keys = load_trusted_keys(trusted_keys)
    manifest = verify_bundle(files, keys, now=now)
    kept = {name: entry.bytes for name, entry in manifest.files.items() if _is_for_engine(entry)}
    if not any(name.endswith(".gguf") for name in kept):
        raise BundleError(f"bundle {manifest.name}: has no weights for the engine (GGUF)")
    left_out = tuple(sorted(manifest.files.keys() - kept.keys()))
    kept |= {name: len(files.read(name)) for name in (MANIFEST_NAME, ENVELOPE_NAME)}
    pem = b"".join(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in keys.values())
    return EngineBundle(manifest, b"".join(encode_zip(kept, files.chunks)), pem, left_out)


def write_app(bundle: Path, out: Path, *, trusted_keys: Path, now: datetime, program: Path | None = None) -> AppSize:
    """Verify a bundle and write it as an app for the machine that the program was built for.

    Args:
        bundle: See `bundle_for_engine`.
        out: The app; it appears whole or not at all.
        trusted_keys: Folder of public keys, which the app carries and verifies itself by at every start.
        now: Moment that expiry is judged by.
        program: The engine's program; default: `find_program`.

    Raises:
        BundleError: see `bundle_for_engine`; or the program was not found.
        InputError: the program is an app already, or the file could not be written.
    """
    inside = bundle_for_engine(bundle, trusted_keys=trusted_keys, now=now)
    engine = _program(program or find_program())
    lengths = len(inside.archive).to_bytes(8, "little") + len(inside.keys).to_bytes(8, "little")
    parts = [engine, inside.archive, inside.keys, lengths, MAGIC]
    try:
        write_durably(out, parts, mode=0o755)
    except OSError as error:
        raise InputError(f"{out} could not be written: {error}") from error
    return AppSize(sum(map(len, parts)), len(engine), inside.left_out)


def _program(path: Path) -> bytes:
    data = read_bounded(path, _MOST_PROGRAM_BYTES, what="program")
    if data.endswith(MAGIC):
        raise InputError(f"program {path}: is an app already: expected the engine's program alone")
    return data


def _is_for_engine(entry: FileEntry) -> bool:
    return entry.runtime in (None, "engine", "reference")
