"""A small but complete signed bundle, a home to install it in, and a journal with some entries."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.device.home import Home, init
from smallhold.device.journal import Journal
from smallhold.device.manifest import ENVELOPE_NAME, MANIFEST_NAME, FileEntry, Manifest
from smallhold.device.trust import sign_manifest
from smallhold.records import sha256_hex

NOW = datetime(2025, 6, 1, 12, 0, 0, tzinfo=UTC)

CONTENT = {
    "tokenizer.json": b'{"tokens":["a","b"]}',
    "tasks/icu-risk.json": b'{"fields":[]}',
    "onnx/model.onnx": bytes(range(256)) * 4,
    "card.md": "# Carte\u00e9\n".encode(),
    "licences/empty.txt": b"",
}


def make_manifest(content: dict[str, bytes] = CONTENT, **changes: object) -> Manifest:
    files = {path: FileEntry(sha256_hex(data), len(data), "part", None) for path, data in content.items()}
    manifest = Manifest(
        name="icu-risk",
        version="1.2.3",
        created="2025-01-01T00:00:00Z",
        expires=None,
        minimum_runtime="0.1.0",
        base_digest="0" * 64,
        context_length=512,
        tasks=("icu-risk",),
        is_simulated=True,
        training_data=("simulated_ward",),
        files=files,
    )
    return replace(manifest, **changes)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.fixture
def manifest_of() -> Callable[..., Manifest]:
    return make_manifest


@pytest.fixture
def build(tmp_path: Path, key: Ed25519PrivateKey) -> Callable[..., Path]:
    """build("name", version="1.0.0", content=..., signer=...) writes a signed bundle directory."""

    def write(
        name: str = "bundle",
        *,
        content: dict[str, bytes] = CONTENT,
        signer: Ed25519PrivateKey | None = key,
        **changes: object,
    ) -> Path:
        folder = tmp_path / name
        manifest = make_manifest(content, **changes)
        for path, data in {**content, MANIFEST_NAME: manifest.to_bytes()}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        if signer is not None:
            (folder / ENVELOPE_NAME).write_bytes(sign_manifest(manifest.to_bytes(), signer))
        return folder

    return write


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    init(made)
    return made


@pytest.fixture
def journal_path(tmp_path: Path, key: Ed25519PrivateKey) -> Path:
    """A closed journal of 200 entries: a checkpoint at 0, 64, 128, 192 and 199."""
    path = tmp_path / "journal.db"
    with Journal.open(path, key=key, clock=lambda: 1_000) as journal:
        for number in range(200):
            journal.append("step", b"payload %d" % number)
    return path
