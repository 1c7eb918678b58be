"""The bundle's manifest: what a bundle is, and the digest of every file in it.

The parser is strict because it decides what runs: an unknown, missing or wrong-typed member, a path that could
leave the bundle, or bytes that are not the one canonical form are refused with the member's name.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, TypeVar

from smallhold.errors import InputError, IntegrityError
from smallhold.records import canonical_json, sha256_hex

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
ENVELOPE_NAME = "manifest.dsse.json"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_T = TypeVar("_T")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a bundle.

    Attributes:
        sha256: 64 lower-case hexadecimal digits.
        bytes: Exact size.
        role: What the file is for: `model`, `tokenizer`, `task`, `baseline`, `card`, `licence`, ...
        runtime: Which backend reads it, or None when all do.
    """

    sha256: str
    bytes: int
    role: str
    runtime: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything a device needs to know before it opens a bundle; a wrong value cannot be constructed.

    Attributes:
        format_version: Version of this format, 1.
        name: What the bundle calls itself: letters, digits, `.`, `_` and `-`.
        version: `1.2.3`; a device never installs a lower one than it has run.
        created: UTC, ISO 8601 with seconds and a trailing Z.
        expires: The same form; from this moment on the bundle is refused. None = never.
        minimum_runtime: Lowest version of this software that may open the bundle.
        base_digest: SHA-256 of the base model that the tasks share.
        context_length: Positions of context that the model was made for.
        tasks: Names of the tasks inside.
        is_simulated: True when the training data came from a simulator.
        training_data: Names of the data sets that the weights were trained on.
        files: Path inside the bundle to its entry; every file but the manifest and its envelope.

    Raises:
        IntegrityError: a value breaks the format; the message names it.
    """

    format_version: int = FORMAT_VERSION
    name: str
    version: str
    created: str
    expires: str | None
    minimum_runtime: str
    base_digest: str
    context_length: int
    tasks: tuple[str, ...]
    is_simulated: bool
    training_data: tuple[str, ...]
    files: dict[str, FileEntry]

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise IntegrityError(
                f"manifest format_version: expected {FORMAT_VERSION}, got {self.format_version!r}",
                hint="a newer bundle needs a newer smallhold: pip install --upgrade smallhold",
            )
        for name, word in (("name", self.name), *(("tasks", task) for task in self.tasks)):
            if not is_bundle_name(word):
                raise IntegrityError(f"manifest {name}: expected letters, digits, '.', '_' and '-', got {word!r}")
        if len(set(self.tasks)) != len(self.tasks):
            raise IntegrityError(f"manifest tasks: named twice in {list(self.tasks)!r}")
        parse_version(self.version, member="version")
        parse_version(self.minimum_runtime, member="minimum_runtime")
        created = parse_time(self.created, member="created")
        if self.expires is not None and parse_time(self.expires, member="expires") <= created:
            raise IntegrityError(f"manifest expires: expected a time after {self.created}, got {self.expires}")
        _check_sha256(self.base_digest, "base_digest")
        if self.context_length < 1:
            raise IntegrityError(f"manifest context_length: expected at least 1, got {self.context_length}")
        _check_paths(self.files)
        for path, entry in self.files.items():
            _check_sha256(entry.sha256, f"files[{path!r}].sha256")
            if entry.bytes < 0:
                raise IntegrityError(f"manifest files[{path!r}].bytes: expected 0 or more, got {entry.bytes}")
            if not entry.role:
                raise IntegrityError(f"manifest files[{path!r}].role: expected a role, got an empty string")

    def to_bytes(self) -> bytes:
        """The manifest's one canonical form, as stored in `manifest.json` and signed."""
        members: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        members["files"] = {
            path: {item.name: getattr(entry, item.name) for item in fields(entry)} for path, entry in self.files.items()
        }
        return canonical_json(members)

    @property
    def digest(self) -> str:
        """SHA-256 of `to_bytes()`: the identity of the bundle, which every record carries."""
        return sha256_hex(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read what `to_bytes` wrote, and nothing else.

        Raises:
            IntegrityError: not canonical JSON, or a member is unknown, missing, wrong-typed or impossible.
        """
        try:
            value = json.loads(data)
            is_canonical = canonical_json(value) == data
        except (ValueError, RecursionError, InputError) as error:  # ValueError: bad JSON, bad UTF-8, lone surrogates
            raise IntegrityError(f"manifest.json is not JSON in UTF-8: {error}") from error
        if not is_canonical:
            raise IntegrityError("manifest.json is not in canonical form: sorted keys once each, no white space")
        members = _object(value, "manifest", frozenset(item.name for item in fields(cls)))
        entries = _typed(members["files"], dict, "files")
        return cls(
            format_version=_typed(members["format_version"], int, "format_version"),
            name=_typed(members["name"], str, "name"),
            version=_typed(members["version"], str, "version"),
            created=_typed(members["created"], str, "created"),
            expires=_typed_or_none(members["expires"], "expires"),
            minimum_runtime=_typed(members["minimum_runtime"], str, "minimum_runtime"),
            base_digest=_typed(members["base_digest"], str, "base_digest"),
            context_length=_typed(members["context_length"], int, "context_length"),
            tasks=_strings(members["tasks"], "tasks"),
            is_simulated=_typed(members["is_simulated"], bool, "is_simulated"),
            training_data=_strings(members["training_data"], "training_data"),
            files={path: _file_entry(path, entry) for path, entry in entries.items()},
        )


def is_bundle_name(text: str) -> bool:
    """Whether a bundle or a task may be called so: letters, digits, `.`, `_` and `-`."""
    return _WORD.fullmatch(text) is not None


def parse_version(text: str, *, member: str = "version") -> tuple[int, int, int]:
    """`1.2.3` as a tuple that compares; leading zeros, signs and suffixes are refused.

    >>> parse_version("1.10.0") > parse_version("1.9.9")
    True
    """
    match = _VERSION.fullmatch(text)
    if not match:
        raise IntegrityError(f"manifest {member}: expected a version such as 1.2.3, got {text!r}")
    major, minor, patch = match.groups()
    return int(major), int(minor), int(patch)


def parse_time(text: str, *, member: str = "time") -> datetime:
    """`2025-01-31T12:00:00Z` as an aware datetime; no other form is accepted."""
    try:
        if not _TIME.fullmatch(text):
            raise ValueError
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise IntegrityError(f"manifest {member}: expected a time such as 2025-01-31T12:00:00Z, got {text!r}") from None


def check_path(path: str) -> None:
    """Refuse a path that is not plainly inside the bundle on every system.

    Raises:
        IntegrityError: empty, absolute, with `.`, `..` or empty parts, a backslash, a colon or a control character.
    """
    is_plain = path.isprintable() and not any(bad in path for bad in "\\:")
    if not is_plain or any(part in ("", ".", "..") for part in path.split("/")):
        raise IntegrityError(f"unsafe path in bundle: expected a relative path such as onnx/model.onnx, got {path!r}")


def _check_paths(files: dict[str, FileEntry]) -> None:
    seen: dict[str, str] = {}
    for path in files:
        check_path(path)
        if _folded(path) in (MANIFEST_NAME, ENVELOPE_NAME):
            raise IntegrityError(f"manifest files: {path!r} cannot be listed in itself")
        other = seen.setdefault(_folded(path), path)
        if other != path:
            raise IntegrityError(f"manifest files: {other!r} and {path!r} are one file where case does not count")
    for path in files:
        parts = _folded(path).split("/")
        for depth in range(1, len(parts)):
            if "/".join(parts[:depth]) in seen:
                raise IntegrityError(f"manifest files: {path!r} needs a folder where another file is")


def _folded(path: str) -> str:
    # Case and Unicode form do not tell files apart on macOS and Windows.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _check_sha256(text: str, member: str) -> None:
    if not _SHA256.fullmatch(text):
        raise IntegrityError(f"manifest {member}: expected 64 lower-case hexadecimal digits, got {text[:80]!r}")


def _object(value: Any, where: str, names: frozenset[str]) -> dict[str, Any]:
    members = _typed(value, dict, where)
    if members.keys() != names:
        missing, unknown = sorted(names - members.keys()), sorted(members.keys() - names)
        raise IntegrityError(f"{where}: missing members {missing}, unknown members {unknown}")
    return members


def _typed(value: Any, kind: type[_T], member: str) -> _T:
    if type(value) is not kind:  # exact: True is not a number here
        raise IntegrityError(f"manifest {member}: expected {kind.__name__}, got {type(value).__name__}")
    return value


def _typed_or_none(value: Any, member: str) -> str | None:
    return None if value is None else _typed(value, str, member)


def _strings(value: Any, member: str) -> tuple[str, ...]:
    return tuple(_typed(item, str, f"{member}[{i}]") for i, item in enumerate(_typed(value, list, member)))


def _file_entry(path: str, value: Any) -> FileEntry:
    where = f"files[{path!r}]"
    members = _object(value, f"manifest {where}", frozenset(item.name for item in fields(FileEntry)))
    return FileEntry(
        sha256=_typed(members["sha256"], str, f"{where}.sha256"),
        bytes=_typed(members["bytes"], int, f"{where}.bytes"),
        role=_typed(members["role"], str, f"{where}.role"),
        runtime=_typed_or_none(members["runtime"], f"{where}.runtime"),
    )
