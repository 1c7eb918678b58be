"""The engine accepts the manifests that Python accepts, and no others."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

import pytest
from tests.device.conftest import make_manifest
from tests.engine.verifier import Verifier, running

from smallhold.device.manifest import Manifest
from smallhold.errors import IntegrityError
from smallhold.records import canonical_json


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with running("manifests") as started:
        yield started


@pytest.fixture(scope="module")
def agreed(verifier: Verifier) -> Callable[[bytes], bool]:
    """agreed(data) is the verdict of both."""

    def verdict(data: bytes) -> bool:
        kind, sentence = verifier.ask(data)
        try:
            digest = Manifest.from_bytes(data).digest
        except IntegrityError as error:
            assert kind in ("Malformed", "Unsupported"), (data, str(error))
            return False
        assert (kind, sentence) == ("ok", digest), (data, sentence)
        return True

    return verdict


def test_members_of_manifests(agreed: Callable[[bytes], bool]) -> None:
    whole = json.loads(make_manifest().to_bytes())
    assert agreed(canonical_json(whole))
    entry = whole["files"]["card.md"]
    times = ("2025-02-29", "2024-02-29", "1900-02-29", "2000-02-29", "2025-04-31", "0000-01-01", "0001-01-01")
    times += ("9999-12-31", "2025-13-01", "2025-00-01", "2025-01-00", "2025-1-01", "+025-01-01", "2025-01-0\u0661")
    hours = ("00:00:00Z", "23:59:59Z", "24:00:00Z", "23:60:00Z", "23:59:60Z", "00:00:00", "00:00:00z", "00:00:00Z\n")
    versions = ("0.0.0", "999999.1.2", "1000000.0.0", "1.2", "1.2.3.4", "01.2.3", "1.+2.3", "1.2.", "", "1.2.3\n", "a")
    names = ("a", "A1._-", "", "-a", ".a", "a b", "\u00e9", "a" * 128, "a" * 129, "a\n", 7, None)
    paths = ("a", "../x", "a/../x", "a//b", "./a", "a/", "/a", "", "a\\b", "C:x", "a\0b", "a\x7f", "a b", "..a", "a..b")
    paths += ("manifest.json", "MANIFEST.json", "Manifest.DSSE.json", "manifest.json/x", "a/manifest.json")
    values: dict[str, tuple[object, ...]] = {
        "format_version": (1, 2, 0, -1, 1.0, True, "1", None),
        "name": names,
        "version": versions,
        "minimum_runtime": versions,
        "created": (*(f"{day}T00:00:00Z" for day in times), *(f"2025-01-31T{hour}" for hour in hours), "2025-01-31", 1),
        "expires": (None, "2025-01-01T00:00:00Z", "2025-01-01T00:00:01Z", "2024-12-31T23:59:59Z", "soon", 1),
        "base_digest": ("0" * 64, "f" * 64, "F" * 64, "g" * 64, "0" * 63, "0" * 65, "", "0" * 64 + "\n", 0),
        "context_length": (1, 0, -1, 2**53, 1.5, 512.0, True, "1", None),
        "tasks": ([], ["a", "b"], ["a", "a"], "a", [1], [["a"]], None, *([name] for name in names)),
        "is_simulated": (True, False, 1, 0, None, "true"),
        "training_data": ([], ["any text", "\u00e9\n\"'\\\t\x01\x7f\u2028"], ["a", "a"], [1], None, {}),
        "files": (
            {},
            [],
            None,
            {"a": {}},
            {"a": []},
            *({path: entry} for path in paths),
            *(
                dict.fromkeys(pair, entry)
                for pair in (("a", "A"), ("a/b", "A/B"), ("a", "A/b"), ("a/b", "a"), ("a", "ab"))
            ),
            *({"a": {**entry, "bytes": size}} for size in (0, -1, 1.0, 2**53, "1", None, True)),
            *({"a": {**entry, "role": role}} for role in ("", "a role", None, 1)),
            *({"a": {**entry, "runtime": runtime}} for runtime in (None, "", "onnx", 1)),
            *({"a": {**entry, "sha256": digest}} for digest in ("0" * 63, "A" * 64, None)),
            {"a": {**entry, "more": 1}},
            {"a": {name: value for name, value in entry.items() if name != "runtime"}},
        ),
    }
    assert values.keys() == whole.keys()
    verdicts = [agreed(canonical_json({**whole, name: v})) for name, more in values.items() for v in more]
    assert 40 < sum(verdicts) < len(verdicts) - 80
    for name in whole:
        assert not agreed(canonical_json({other: value for other, value in whole.items() if other != name}))
    assert not agreed(canonical_json({**whole, "colour": "red"}))


def test_spellings_of_manifests(agreed: Callable[[bytes], bool]) -> None:
    data = make_manifest().to_bytes()
    for old, new in (
        (b'"name":"icu-risk"', b'"name":"x","name":"icu-risk"'),
        (b'"name":"icu-risk"', b'"name":"icu\\u002drisk"'),
        (b'"bytes":0', b'"bytes":-0'),
        (b'"bytes":1024', b'"bytes":1.024e3'),
        (b'"bytes":1024', b'"bytes":1024.0'),
        (b'"bytes":1024', b'"bytes":01024'),
        (b"{", b" {"),
        (b",", b", "),
        (b"]", b"]\n"),
        (b"null", b"NaN"),
    ):
        assert data.count(old) >= 1
        assert not agreed(data.replace(old, new, 1))
    for other in (
        b"",
        b"\xef\xbb\xbf" + data,
        data.decode().encode("utf-16"),
        b"\xff",
        b"[" * 100_000,
        b"1e999",
        b"[]",
    ):
        assert not agreed(other)


def test_changed_and_cut_manifests(agreed: Callable[[bytes], bool]) -> None:
    data, rng = make_manifest().to_bytes(), random.Random(2)
    accepted = sum(agreed(data[:end]) for end in range(len(data)))
    assert accepted == 0
    for _ in range(2000):
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 2))):
            changed[rng.randrange(len(data))] = rng.choice((*range(0x20, 0x7F), *b'"\\{}[],:0', 0, 10, 0x7F))
        accepted += agreed(bytes(changed))
    assert accepted > 100  # another digit of a digest, another letter of a role


def test_what_only_python_accepts(verifier: Verifier) -> None:
    """Paths that need tables of Unicode, and integers beyond 2^53."""
    whole = json.loads(make_manifest().to_bytes())
    entry = whole["files"]["card.md"]
    for change, kind in (
        ({"files": {"\u00e9.txt": entry}}, "Unsupported"),
        ({"context_length": 2**53 + 2}, "Malformed"),
    ):
        data = canonical_json({**whole, **change})
        Manifest.from_bytes(data)
        assert verifier.ask(data)[0] == kind
