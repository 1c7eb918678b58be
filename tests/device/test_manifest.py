import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallhold.device.manifest import FileEntry, Manifest, check_path, parse_time, parse_version
from smallhold.errors import BundleError, IntegrityError
from smallhold.records import canonical_json, sha256_hex


def test_bytes_are_canonical_and_read_back(manifest_of):
    manifest = manifest_of()
    data = manifest.to_bytes()
    assert data == canonical_json(json.loads(data))
    assert Manifest.from_bytes(data) == manifest
    assert manifest.digest == sha256_hex(data)


def test_one_manifest_has_one_spelling(manifest_of):
    data = manifest_of().to_bytes()
    with pytest.raises(IntegrityError, match="canonical form"):
        Manifest.from_bytes(data + b"\n")
    with pytest.raises(IntegrityError, match="canonical form"):
        Manifest.from_bytes(json.dumps(json.loads(data), indent=1).encode())
    with pytest.raises(IntegrityError, match="canonical form"):  # a member twice
        Manifest.from_bytes(data.replace(b'"name":"icu-risk"', b'"name":"x","name":"icu-risk"'))


@pytest.mark.parametrize("data", [b"", b"\xff", b"[", b"[" * 100_000, b'"\\ud800"', b"1e999"])
def test_what_is_not_json_is_refused(data):
    with pytest.raises(IntegrityError, match=r"manifest\.json is not"):
        Manifest.from_bytes(data)


def changed(manifest_of, **members):
    value = json.loads(manifest_of().to_bytes())
    value.update(members)
    return canonical_json(value)


def test_unknown_and_missing_members_are_named(manifest_of):
    with pytest.raises(IntegrityError, match=r"unknown members \['colour'\]"):
        Manifest.from_bytes(changed(manifest_of, colour="red"))
    value = json.loads(manifest_of().to_bytes())
    del value["expires"]
    with pytest.raises(IntegrityError, match=r"missing members \['expires'\]"):
        Manifest.from_bytes(canonical_json(value))


@pytest.mark.parametrize(
    ("member", "value", "message"),
    [
        ("format_version", 2, "format_version: expected 1, got 2"),
        ("format_version", 1.0, "format_version: expected int, got float"),
        ("format_version", True, "format_version: expected int, got bool"),
        ("name", 7, "name: expected str, got int"),
        ("name", "a\x1b[2J", "name: expected letters"),
        ("version", "1.2", "version: expected a version such as 1.2.3"),
        ("version", "01.2.3", "version: expected"),
        ("created", "2025-01-01", "created: expected a time"),
        ("created", "2025-02-30T00:00:00Z", "created: expected a time"),
        ("expires", "2024-01-01T00:00:00Z", "expires: expected a time after"),
        ("minimum_runtime", "new", "minimum_runtime: expected a version"),
        ("base_digest", "F" * 64, "base_digest: expected 64 lower-case"),
        ("context_length", 0, "context_length: expected at least 1"),
        ("tasks", ["a", "a"], "tasks: named twice"),
        ("tasks", "icu-risk", "tasks: expected list, got str"),
        ("tasks", [1], r"tasks\[0\]: expected str, got int"),
        ("is_simulated", 1, "is_simulated: expected bool, got int"),
        ("training_data", None, "training_data: expected list"),
        ("files", [], "files: expected dict, got list"),
        ("files", {"a": {}}, r"files\['a'\]: missing members"),
    ],
)
def test_a_wrong_member_is_named_with_its_value(manifest_of, member, value, message):
    with pytest.raises(BundleError, match=message):
        Manifest.from_bytes(changed(manifest_of, **{member: value}))


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "a/../x", "a//b", "./a", "a/", "a\\b", "C:x", "a\x00b", "a\nb", "a\u202eb", "\ud800"],
)
def test_a_path_that_could_leave_the_bundle_is_refused(manifest_of, path):
    with pytest.raises(IntegrityError, match="unsafe path"):
        manifest_of(files={path: FileEntry("0" * 64, 1, "part", None)})


@pytest.mark.parametrize("path", ["manifest.json", "MANIFEST.json", "manifest.dsse.json"])
def test_the_manifest_cannot_list_itself(manifest_of, path):
    with pytest.raises(IntegrityError, match="cannot be listed in itself"):
        manifest_of(files={path: FileEntry("0" * 64, 1, "part", None)})


@pytest.mark.parametrize("pair", [("a/Card.md", "a/card.md"), ("stra\u00dfe", "STRASSE"), ("\u00e9", "e\u0301")])
def test_two_names_for_one_file_are_refused(manifest_of, pair):
    entry = FileEntry("0" * 64, 1, "part", None)
    with pytest.raises(IntegrityError, match="one file where case does not count"):
        manifest_of(files=dict.fromkeys(pair, entry))


def test_a_file_cannot_be_a_folder_too(manifest_of):
    entry = FileEntry("0" * 64, 1, "part", None)
    with pytest.raises(IntegrityError, match="needs a folder where another file is"):
        manifest_of(files={"a": entry, "A/b": entry})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (FileEntry("0" * 63, 1, "part", None), r"files\['a'\]\.sha256: expected 64"),
        (FileEntry("0" * 64, -1, "part", None), r"files\['a'\]\.bytes: expected 0 or more"),
        (FileEntry("0" * 64, 1, "", None), r"files\['a'\]\.role"),
    ],
)
def test_a_wrong_file_entry_is_refused(manifest_of, entry, message):
    with pytest.raises(IntegrityError, match=message):
        manifest_of(files={"a": entry})


def test_ordinary_paths_are_accepted():
    for path in ("card.md", "tasks/icu-risk.json", "a b/\u00e9.txt", "..a", "a..b"):
        check_path(path)


@given(st.tuples(*[st.integers(0, 999_999)] * 3), st.tuples(*[st.integers(0, 999_999)] * 3))
def test_versions_compare_as_numbers(left, right):
    text = [".".join(map(str, parts)) for parts in (left, right)]
    assert (parse_version(text[0]) < parse_version(text[1])) == (left < right)


@given(st.text(max_size=12))
def test_no_other_text_is_a_version_or_a_time(text):
    for parse in (parse_version, parse_time):
        try:
            parse(text)
        except IntegrityError:
            continue
        assert text.isascii()
