"""`hf:` sources from a prepared cache; no test reaches a network, and the sockets say so."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub", reason="the cache is huggingface_hub's, the extra 'hub'")

from smallhold.errors import DataError, InputError
from smallhold.teach.hub import fetch_snapshot, parse_source

COMMIT = "a" * 39 + "1"
OTHER = "b" * 40


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError("the network is blocked in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The layout of the hub's cache: blobs, links to them by commit, and names of commits."""
    repository = tmp_path / "models--org--small"
    for commit, names in ((COMMIT, ("config.json", "model.safetensors", "tokenizer.json")), (OTHER, ("config.json",))):
        folder = repository / "snapshots" / commit
        folder.mkdir(parents=True)
        for name in names:
            blob = repository / "blobs" / f"{commit[:4]}-{name}"
            blob.parent.mkdir(exist_ok=True)
            blob.write_text("{}")
            (folder / name).symlink_to(blob)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "refs" / "bare").write_text(OTHER)
    return tmp_path


@pytest.mark.parametrize("source", ["hf:org/small", "hf:org/small@main", f"hf:org/small@{COMMIT}"])
def test_a_cached_model_is_found_offline_by_its_commit(cache: Path, source: str) -> None:
    found = fetch_snapshot(source, offline=True, cache=cache)
    assert (found.repository, found.commit) == ("org/small", COMMIT)
    assert found.origin == f"hf:org/small@{COMMIT}"
    assert (found.folder / "model.safetensors").read_text() == "{}"


def test_the_variable_of_the_hub_counts(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch_snapshot("hf:org/small", cache=cache).commit == COMMIT
    with pytest.raises(InputError, match="is not in the cache, and this is offline") as caught:
        fetch_snapshot("hf:org/other", cache=cache)
    assert "hf download org/other" in str(caught.value.hint)


@pytest.mark.parametrize("source", ["hf:org/other", "hf:org/small@v9"])
def test_what_is_not_cached_is_refused_offline(cache: Path, source: str) -> None:
    with pytest.raises(InputError, match="is not in the cache, and this is offline"):
        fetch_snapshot(source, offline=True, cache=cache)


def test_without_a_network_the_cache_answers_and_else_the_message_says_why(cache: Path) -> None:
    assert fetch_snapshot("hf:org/small", cache=cache).commit == COMMIT
    with pytest.raises(InputError, match="hf:org/other: ") as caught:
        fetch_snapshot("hf:org/other", cache=cache)
    assert caught.value.hint is not None


def test_a_token_is_never_in_a_message(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    with pytest.raises(InputError) as caught:
        fetch_snapshot("hf:org/other", cache=cache)
    assert "secret" not in f"{caught.value} {caught.value.hint}"


def test_a_model_without_safetensors_is_refused(cache: Path) -> None:
    with pytest.raises(
        DataError, match=r"commit bbbbbbbbbbbb has no config\.json with safetensors: found config\.json"
    ):
        fetch_snapshot("hf:org/small@bare", offline=True, cache=cache)


@pytest.mark.parametrize(
    "source", ["hf:small", "hf:a/b/c", "hf:../x", "hf:org/na me", "hf:org/x@", "hf:org/x@../y", ""]
)
def test_other_names_are_refused(source: str) -> None:
    with pytest.raises(InputError, match="expected hf:ORG/NAME"):
        parse_source(source)
