import base64
import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from smallhold.device.bundle_files import open_bundle_files, write_bundle_zip
from smallhold.device.trust import (
    generate_private_key,
    key_id,
    load_private_key,
    load_public_key,
    load_trusted_keys,
    pre_authentication_encoding,
    save_private_key,
    save_public_key,
    sign_manifest,
    unsafe_read_manifest,
    verify_bundle,
)
from smallhold.errors import (
    BundleError,
    ExpiredError,
    InputError,
    IntegrityError,
    RollbackError,
    SignatureError,
)
from smallhold.records import canonical_json


@pytest.fixture
def verify(key, now):
    trusted = {key_id(key.public_key()): key.public_key()}

    def run(path: Path, **changes):
        arguments = {"now": now, "runtime_version": "0.1.0", **changes}
        return verify_bundle(open_bundle_files(path), arguments.pop("trusted", trusted), **arguments)

    return run


def test_a_genuine_bundle_is_accepted_in_both_forms(build, verify, tmp_path):
    bundle = build()
    write_bundle_zip(bundle, tmp_path / "bundle.zip")
    assert verify(bundle) == verify(tmp_path / "bundle.zip") == unsafe_read_manifest(open_bundle_files(bundle))


def test_signature_covers_the_encoding_of_the_protocol():
    # The example of the DSSE protocol page.
    encoded = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_only_a_manifest_is_ever_signed(key):
    with pytest.raises(IntegrityError):
        sign_manifest(b'{"order":"give 10 mg"}', key)


def files_of(bundle: Path) -> list[Path]:
    return sorted(path for path in bundle.rglob("*") if path.is_file())


def test_any_flipped_byte_of_a_directory_is_refused(build, verify):
    bundle = build()
    for path in files_of(bundle):
        data = path.read_bytes()
        # Every byte of the small files, every 17th of the larger ones, and every bit position in turn.
        for number, position in enumerate(range(0, len(data), 1 if len(data) < 200 else 17)):
            flipped = bytearray(data)
            flipped[position] ^= 1 << (number % 8)
            path.write_bytes(flipped)
            with pytest.raises(BundleError):
                verify(bundle)
        path.write_bytes(data)
    verify(bundle)


def test_any_flipped_byte_of_a_single_file_is_refused(build, verify, tmp_path):
    path = tmp_path / "bundle.zip"
    write_bundle_zip(build(), path)
    data = path.read_bytes()
    for position in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        with pytest.raises(BundleError):
            verify(path)


def test_a_swapped_file_is_located(build, verify):
    bundle = build(content={"a.bin": b"one", "b.bin": b"two"})
    (bundle / "a.bin").write_bytes(b"two")
    (bundle / "b.bin").write_bytes(b"one")
    with pytest.raises(IntegrityError, match=r"'a\.bin' was altered"):
        verify(bundle)


def test_longer_shorter_missing_and_extra_files_are_located(build, verify):
    bundle = build()
    model = bundle / "onnx/model.onnx"
    data = model.read_bytes()
    model.write_bytes(data + b"x")
    with pytest.raises(IntegrityError, match=r"'onnx/model\.onnx': expected 1024 bytes, got more"):
        verify(bundle)
    model.write_bytes(data[:-1])
    with pytest.raises(IntegrityError, match="expected 1024 bytes, got 1023"):
        verify(bundle)
    model.unlink()
    with pytest.raises(IntegrityError, match=r"'onnx/model\.onnx' is missing"):
        verify(bundle)
    model.write_bytes(data)
    (bundle / "onnx/plugin.so").write_bytes(b"x")
    with pytest.raises(IntegrityError, match=r"'onnx/plugin\.so' is not in the manifest"):
        verify(bundle)


def test_an_unsigned_bundle_is_refused(build, verify):
    with pytest.raises(SignatureError, match=r"is unsigned: it has no manifest\.dsse\.json"):
        verify(build(signer=None))


def test_an_unknown_signer_is_refused_and_named(build, verify):
    stranger = Ed25519PrivateKey.generate()
    bundle = build(signer=stranger)
    with pytest.raises(SignatureError, match=f"signed by {key_id(stranger.public_key())[:16]}"):
        verify(bundle)
    with pytest.raises(SignatureError, match="trusted are none"):
        verify(bundle, trusted={})


def test_a_stranger_cannot_borrow_a_trusted_key_id(build, verify, key):
    bundle = build(signer=Ed25519PrivateKey.generate())
    envelope = json.loads((bundle / "manifest.dsse.json").read_bytes())
    envelope["signatures"][0]["keyid"] = key_id(key.public_key())
    (bundle / "manifest.dsse.json").write_bytes(canonical_json(envelope))
    with pytest.raises(SignatureError, match="does not match the manifest"):
        verify(bundle)


def test_a_key_id_that_is_no_text_is_refused_beside_a_good_signature(build, verify):
    bundle = build()
    envelope = json.loads((bundle / "manifest.dsse.json").read_bytes())
    envelope["signatures"].append(envelope["signatures"][0] | {"keyid": 7})
    (bundle / "manifest.dsse.json").write_bytes(canonical_json(envelope))
    with pytest.raises(SignatureError, match="keyid: expected text, got 7"):
        verify(bundle)


def test_the_envelope_of_another_manifest_is_refused(build, verify):
    bundle, other = build("one"), build("other", version="1.2.4")
    (bundle / "manifest.dsse.json").write_bytes((other / "manifest.dsse.json").read_bytes())
    with pytest.raises(SignatureError, match="is not the manifest that was signed"):
        verify(bundle)


def test_a_signature_over_another_type_is_refused(build, verify, key):
    bundle = build()
    payload = (bundle / "manifest.json").read_bytes()
    signature = key.sign(pre_authentication_encoding("application/other", payload))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": "application/other",
        "signatures": [{"keyid": key_id(key.public_key()), "sig": base64.b64encode(signature).decode()}],
    }
    (bundle / "manifest.dsse.json").write_bytes(canonical_json(envelope))
    with pytest.raises(SignatureError, match="payloadType: expected application/vnd"):
        verify(bundle)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b'{"payload":1,"payloadType":"x","signatures":[]}', b"[" * 99_999, b"1e999"]
)
def test_a_malformed_envelope_is_refused(build, verify, data):
    bundle = build()
    (bundle / "manifest.dsse.json").write_bytes(data)
    with pytest.raises(SignatureError, match="is not a signed envelope"):
        verify(bundle)


def test_two_signers_and_one_of_them_trusted_is_enough(build, verify, key):
    bundle = build()
    stranger = Ed25519PrivateKey.generate()
    envelope = json.loads((bundle / "manifest.dsse.json").read_bytes())
    other = json.loads(sign_manifest((bundle / "manifest.json").read_bytes(), stranger))
    envelope["signatures"] = other["signatures"] + envelope["signatures"]
    (bundle / "manifest.dsse.json").write_bytes(canonical_json(envelope))
    assert verify(bundle).version == "1.2.3"


def test_an_expired_manifest_is_refused_from_the_very_second(build, verify):
    bundle = build(expires="2025-06-01T12:00:00Z")
    moment = datetime(2025, 6, 1, 12, tzinfo=UTC)
    verify(bundle, now=moment - timedelta(seconds=1))
    with pytest.raises(ExpiredError, match="expired at 2025-06-01T12:00:00Z"):
        verify(bundle, now=moment)
    with pytest.raises(InputError, match="now: expected a time with its zone"):
        verify(bundle, now=moment.replace(tzinfo=None))


def test_an_older_bundle_is_refused(build, verify):
    with pytest.raises(RollbackError, match=r"1\.2\.3 is older than 1\.10\.0"):
        verify(build(), installed_version="1.10.0")


def test_the_same_version_needs_the_same_digest(build, verify):
    bundle = build()
    digest = verify(bundle).digest
    verify(bundle, installed_version="1.2.3", installed_digest=digest)
    with pytest.raises(RollbackError, match="another bundle with the version"):
        verify(bundle, installed_version="1.2.3", installed_digest="f" * 64)


def test_a_bundle_for_newer_software_is_refused(build, verify):
    with pytest.raises(BundleError, match=r"needs smallhold 0\.2\.0 or newer, this is 0\.1\.9"):
        verify(build(minimum_runtime="0.2.0"), runtime_version="0.1.9")


def test_nothing_is_parsed_before_the_signature_holds(build, verify):
    bundle = build(signer=Ed25519PrivateKey.generate())
    (bundle / "manifest.json").write_bytes(b"not a manifest at all")
    with pytest.raises(SignatureError, match="nobody this device trusts"):
        verify(bundle)


def test_a_private_key_is_saved_for_its_owner_alone_and_never_overwritten(tmp_path):
    key = generate_private_key()
    save_private_key(key, tmp_path / "k.pem")
    assert stat.S_IMODE((tmp_path / "k.pem").stat().st_mode) == 0o600
    before = (tmp_path / "k.pem").read_bytes()
    for save, other in ((save_private_key, generate_private_key()), (save_public_key, key.public_key())):
        with pytest.raises(InputError, match="never overwritten"):
            save(other, tmp_path / "k.pem")
    assert (tmp_path / "k.pem").read_bytes() == before
    assert load_private_key(tmp_path / "k.pem").private_bytes_raw() == key.private_bytes_raw()


def test_trusted_keys_are_found_by_their_id(tmp_path):
    keys = [generate_private_key().public_key() for _ in range(3)]
    for number, key in enumerate(keys):
        save_public_key(key, tmp_path / f"{number}.pem")
    (tmp_path / "note.txt").write_text("not a key")
    assert set(load_trusted_keys(tmp_path)) == {key_id(key) for key in keys}
    assert load_trusted_keys(tmp_path / "absent") == {}


def test_other_files_are_not_taken_for_keys(tmp_path):
    ec_key = generate_ec_key(SECP256R1()).public_key()
    (tmp_path / "ec.pem").write_bytes(ec_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "empty.pem").write_bytes(b"")
    for name in ("ec.pem", "empty.pem", "absent.pem"):
        with pytest.raises(InputError, match="not a readable ed25519 public key"):
            load_public_key(tmp_path / name)
        with pytest.raises(InputError, match="not a readable ed25519 private key"):
            load_private_key(tmp_path / name)
    with pytest.raises(InputError, match=r"ec\.pem"):
        load_trusted_keys(tmp_path)
