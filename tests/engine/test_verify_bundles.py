"""The engine's verdict over bundles is Python's, on genuine ones and on attacks."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import struct
import subprocess
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.device.conftest import CONTENT, NOW, make_manifest
from tests.engine.verifier import build_verifier, running
from tests.engine_library import ENGINE

from smallhold.device.bundle_files import open_bundle_files, write_bundle_zip
from smallhold.device.manifest import ENVELOPE_NAME, MANIFEST_NAME, Manifest
from smallhold.device.trust import (
    key_id,
    load_trusted_keys,
    pre_authentication_encoding,
    save_public_key,
    sign_manifest,
    verify_bundle,
)
from smallhold.errors import BundleError, ExpiredError, IntegrityError, SignatureError
from smallhold.records import canonical_json, sha256_hex
from smallhold.version import __version__

MODELS = ENGINE.parent / "models"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\1")
SECONDS = int(NOW.timestamp())
#: What the engine calls what Python raises.
KINDS = {
    SignatureError: {"Untrusted"},
    ExpiredError: {"Untrusted"},
    IntegrityError: {"Untrusted", "Malformed", "System"},
    BundleError: {"Unsupported"},
}


def write_bundle(
    folder: Path, content: dict[str, bytes] = CONTENT, signer: Ed25519PrivateKey | None = KEY, **changes: object
) -> Path:
    manifest = make_manifest(content, **changes).to_bytes()
    files = {**content, MANIFEST_NAME: manifest}
    if signer is not None:
        files[ENVELOPE_NAME] = sign_manifest(manifest, signer)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def archive(bundle: Path, tmp_path: Path) -> Path:
    write_bundle_zip(bundle, tmp_path / "bundle.zip")
    return tmp_path / "bundle.zip"


@pytest.fixture(scope="module")
def agreed_bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], str]]:
    """agreed_bundle(path) is "" where both accept it, otherwise the engine's sentence."""
    folder = tmp_path_factory.mktemp("trusted")
    save_public_key(KEY.public_key(), folder / "publisher.pem")
    trusted = load_trusted_keys(folder)

    def verdict(path: Path) -> str:
        kind, sentence = verifier.ask(str(path).encode())
        try:
            manifest = verify_bundle(open_bundle_files(path), trusted, now=NOW, runtime_version="0.1.0")
        except BundleError as error:
            assert kind in KINDS[type(error)], (kind, sentence, str(error))
            return sentence
        assert (kind, sentence) == ("ok", manifest.digest)
        return ""

    with running("bundles", folder, SECONDS) as verifier:
        yield verdict


def test_genuine_bundles_in_both_forms(agreed_bundle: Callable[[Path], str], bundle: Path, archive: Path) -> None:
    assert agreed_bundle(bundle) == agreed_bundle(archive) == ""


@pytest.mark.parametrize("name", ["hospital", "finance"])
def test_our_own_models_in_both_forms(tmp_path: Path, name: str) -> None:
    write_bundle_zip(MODELS / name, tmp_path / "one.zip")
    manifest = Manifest.from_bytes((MODELS / name / MANIFEST_NAME).read_bytes())
    with running("bundles", MODELS / "trusted_keys", SECONDS) as verifier:
        for path in (MODELS / name, tmp_path / "one.zip"):
            assert verifier.ask(str(path).encode()) == ("ok", manifest.digest)


def test_any_changed_byte_of_a_folder(agreed_bundle: Callable[[Path], str], bundle: Path) -> None:
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        data = path.read_bytes()
        for position in range(0, len(data), 1 if len(data) < 200 else 17):
            changed = bytearray(data)
            changed[position] ^= 1 << (position % 8)
            path.write_bytes(changed)
            assert agreed_bundle(bundle)
        path.write_bytes(data)
    assert agreed_bundle(bundle) == ""


def test_any_changed_byte_of_a_single_file(agreed_bundle: Callable[[Path], str], archive: Path) -> None:
    data = archive.read_bytes()
    for position in range(0, len(data), 13):
        changed = bytearray(data)
        changed[position] ^= 1 << (position % 8)
        archive.write_bytes(changed)
        assert agreed_bundle(archive)
    for end in (0, 1, 3, 29, 30, 31, len(data) // 2, len(data) - 22, len(data) - 1):
        archive.write_bytes(data[:end])
        assert agreed_bundle(archive)
    for other in (data + b"\0", b"\0" + data, data + data, data[:-2] + b"\1\0x"):
        archive.write_bytes(other)
        assert agreed_bundle(archive)


def test_checksums_of_a_single_file_are_those_of_its_content(
    agreed_bundle: Callable[[Path], str], archive: Path
) -> None:
    checksum = struct.pack("<I", zlib.crc32(CONTENT["onnx/model.onnx"]))
    data = archive.read_bytes()
    assert data.count(checksum) == 2
    archive.write_bytes(data.replace(checksum, b"\0\0\0\0"))
    assert "not laid out as a single-file bundle" in agreed_bundle(archive)


def test_missing_extra_swapped_and_resized_files(agreed_bundle: Callable[[Path], str], bundle: Path) -> None:
    for name in (*CONTENT, MANIFEST_NAME, ENVELOPE_NAME):
        path = bundle / name
        data = path.read_bytes()
        for other in (None, data + b"x", data[:-1]):
            path.unlink() if other is None else path.write_bytes(other)
            assert bool(agreed_bundle(bundle)) == (other != data)
            path.write_bytes(data)
    model = bundle / "onnx/model.onnx"
    (bundle / "onnx/plugin.so").write_bytes(b"x")
    assert '"onnx/plugin.so" is not in the manifest' in agreed_bundle(bundle)
    (bundle / "onnx/plugin.so").rename(bundle / "a\\b")
    assert "unsafe path" in agreed_bundle(bundle)
    (bundle / "a\\b").unlink()
    (bundle / "empty").mkdir()
    assert agreed_bundle(bundle) == ""
    model.write_bytes(bytes(1024))
    assert '"onnx/model.onnx" was altered' in agreed_bundle(bundle)


def test_links_and_special_files(agreed_bundle: Callable[[Path], str], bundle: Path, tmp_path: Path) -> None:
    link = bundle / "link"
    for target in ("/etc/passwd", "card.md", "absent", "tasks"):
        link.symlink_to(target)
        assert '"link" is a symbolic link' in agreed_bundle(bundle)
        link.unlink()
    card = bundle / "card.md"
    card.rename(tmp_path / "card.md")
    card.symlink_to(tmp_path / "card.md")  # the content is right, and yet
    assert '"card.md" is a symbolic link' in agreed_bundle(bundle)
    card.unlink()
    os.mkfifo(card)
    assert '"card.md" is a special file' in agreed_bundle(bundle)


def test_signers(agreed_bundle: Callable[[Path], str], tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", signer=STRANGER)
    envelope, manifest = bundle / ENVELOPE_NAME, (bundle / MANIFEST_NAME).read_bytes()
    [foreign] = json.loads(envelope.read_bytes())["signatures"]
    [ours] = json.loads(sign_manifest(manifest, KEY))["signatures"]
    assert f"signed by {foreign['keyid'][:16]}, trusted are {ours['keyid'][:16]}" in agreed_bundle(bundle)
    payload = {"payload": base64.b64encode(manifest).decode()}
    kind = {"payloadType": "application/vnd.smallhold.manifest+json"}
    borrowed = {**foreign, "keyid": ours["keyid"]}
    for signatures, expected in (
        ([ours], ""),
        ([foreign, ours], ""),
        ([ours, ours], ""),
        ([{"keyid": "\u00e9\n", "sig": ""}, ours], ""),
        ([], "signed by none"),
        ([borrowed], "does not match"),
        ([ours, borrowed], "does not match"),
        ([{**ours, "sig": ""}], "does not match"),
        ([{**ours, "sig": ours["sig"][:-3] + "x=="}], "is not a signed envelope"),
        ([{**ours, "more": 1}], "is not a signed envelope"),
        ([ours, {**ours, "keyid": 7}], "is not a signed envelope"),
        ({}, "is not a signed envelope"),
        (None, "is not a signed envelope"),
    ):
        envelope.write_bytes(canonical_json({**payload, **kind, "signatures": signatures}))
        said = agreed_bundle(bundle)
        assert (expected in said) and bool(said) == bool(expected)
    envelope.write_bytes(json.dumps({**payload, **kind, "signatures": [ours]}).encode())
    assert "canonical form" in agreed_bundle(bundle)
    other = "application/other"
    signature = base64.b64encode(KEY.sign(pre_authentication_encoding(other, manifest))).decode()
    signatures = [{"keyid": key_id(KEY.public_key()), "sig": signature}]
    envelope.write_bytes(canonical_json({**payload, "payloadType": other, "signatures": signatures}))
    assert "payloadType: expected application/vnd" in agreed_bundle(bundle)
    envelope.write_bytes(canonical_json({**payload, **kind, "signatures": signatures}))
    assert "does not match" in agreed_bundle(bundle)
    for data in (b"", b"{}", b"[]", b"null", b"[" * 99_999, b"1e999"):
        envelope.write_bytes(data)
        assert "is not a signed envelope" in agreed_bundle(bundle)
    envelope.unlink()
    assert "unsigned" in agreed_bundle(bundle)


def test_the_envelope_of_another_manifest(agreed_bundle: Callable[[Path], str], bundle: Path, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other", version="1.2.4")
    shutil.copy(other / ENVELOPE_NAME, bundle / ENVELOPE_NAME)
    assert "is not the manifest that was signed" in agreed_bundle(bundle)


def test_expired_from_the_very_second_and_too_new(agreed_bundle: Callable[[Path], str], tmp_path: Path) -> None:
    for seconds, expected in ((1, ""), (0, "icu-risk 1.2.3 expired at 2025-06-01T12:00:00Z"), (-1, "expired")):
        expires = (NOW + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        said = agreed_bundle(write_bundle(tmp_path / str(seconds), expires=expires))
        assert expected in said and bool(said) == bool(expected)
    assert "needs smallhold 99.0.0 or newer" in agreed_bundle(write_bundle(tmp_path / "new", minimum_runtime="99.0.0"))


def test_the_engine_is_of_the_version_that_bundles_ask_for() -> None:
    engine = tomllib.loads((ENGINE / "Cargo.toml").read_text())["package"]["version"]
    assert __version__.startswith(engine)


def signed_by_hand(folder: Path, members: dict[str, object]) -> Path:
    """A bundle whose manifest Python would not sign."""
    write_bundle(folder)
    manifest = canonical_json({**json.loads((folder / MANIFEST_NAME).read_bytes()), **members})
    kind = "application/vnd.smallhold.manifest+json"
    signature = KEY.sign(pre_authentication_encoding(kind, manifest))
    envelope = {
        "payload": base64.b64encode(manifest).decode(),
        "payloadType": kind,
        "signatures": [{"keyid": key_id(KEY.public_key()), "sig": base64.b64encode(signature).decode()}],
    }
    (folder / MANIFEST_NAME).write_bytes(manifest)
    (folder / ENVELOPE_NAME).write_bytes(canonical_json(envelope))
    return folder


def test_a_signed_path_that_leads_outside(agreed_bundle: Callable[[Path], str], tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"one")
    entry = {"sha256": sha256_hex(b"one"), "bytes": 3, "role": "part", "runtime": None}
    for path in ("../x", str(tmp_path / "x"), "a/../../x"):
        assert "unsafe path" in agreed_bundle(signed_by_hand(tmp_path / "bundle", {"files": {path: entry}}))
    assert "is_simulated" in agreed_bundle(signed_by_hand(tmp_path / "bundle", {"is_simulated": 1}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_of_other_tools(agreed_bundle: Callable[[Path], str], bundle: Path, tmp_path: Path) -> None:
    files = {str(path.relative_to(bundle)): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    for compression, more in (
        (zipfile.ZIP_STORED, []),
        (zipfile.ZIP_DEFLATED, []),
        *((zipfile.ZIP_STORED, [(name, b"x")]) for name in ("card.md", "../evil", "/evil", "a\\b", "C:x", link)),
    ):
        path = tmp_path / "other.zip"
        with zipfile.ZipFile(path, "w", compression) as opened:
            for name, data in [*sorted(files.items()), *more]:
                opened.writestr(name, data)
        assert agreed_bundle(path)


def test_what_is_no_bundle(agreed_bundle: Callable[[Path], str], bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("hello")
    (tmp_path / "nothing").write_bytes(b"")
    for name in ("absent", "empty", "text", "nothing"):
        assert agreed_bundle(tmp_path / name)
    (tmp_path / "link").symlink_to(bundle)  # the bundle itself may be reached through a link
    assert agreed_bundle(tmp_path / "link") == ""


def test_where_the_host_has_verified_files_are_still_compared(bundle: Path, tmp_path: Path) -> None:
    with running("believed", SECONDS) as verifier:
        digest = Manifest.from_bytes((bundle / MANIFEST_NAME).read_bytes()).digest
        (bundle / ENVELOPE_NAME).unlink()
        (bundle / "compiled.cache").write_bytes(b"the host's own")
        assert verifier.ask(str(bundle).encode()) == ("ok", digest)
        (bundle / "card.md").write_bytes(bytes(len(CONTENT["card.md"])))
        assert '"card.md" was altered' in verifier.ask(str(bundle).encode())[1]
        (bundle / "card.md").unlink()
        assert verifier.ask(str(bundle).encode())[1].endswith('file "card.md" is missing')
        expired = write_bundle(tmp_path / "expired", expires="2025-06-01T12:00:00Z")
        assert "expired" in verifier.ask(str(expired).encode())[1]


def test_keys_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "half.pem").write_text("-----BEGIN PUBLIC KEY-----\n")
    done = subprocess.run([build_verifier(), "bundles", tmp_path, "0"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "half.pem: expected an ed25519 public key in PEM form" in done.stderr
