"""`hf:org/name[@revision]`: a model of the Hugging Face hub as a local directory.

Files go through the cache of `huggingface_hub`, so that nothing is fetched twice. A name becomes one commit, which is
written down. Only configuration, tokenizer, licence and safetensors are fetched: no pickle and no code. The token,
where one is needed, is the library's own (`HF_TOKEN` or `hf auth login`); it is never read or printed here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from smallhold.errors import DataError, InputError, MissingExtraError

PREFIX = "hf:"
_NAME = re.compile(r"hf:([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([\w./-]{1,128}))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ALLOWED = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "USE_POLICY*",
]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model of the hub as it lies in the cache.

    Attributes:
        repository: `org/name`.
        commit: 40 hexadecimal digits; whatever the revision was called, this is what was fetched.
        folder: The directory with the files.
    """

    repository: str
    commit: str
    folder: Path

    @property
    def origin(self) -> str:
        """The source with its commit, for cards."""
        return f"{PREFIX}{self.repository}@{self.commit}"


def fetch_snapshot(source: str, *, offline: bool = False, cache: Path | None = None) -> Snapshot:
    """Fetch a model, or find it in the cache.

    Args:
        source: `hf:org/name`, or `hf:org/name@revision` with a branch, tag or commit.
        offline: Use the cache alone; the same as `HF_HUB_OFFLINE=1`.
        cache: Folder of the cache; default: the library's own.

    Raises:
        InputError: not such a name, or the model or revision does not exist, needs a token, or cannot be reached.
        DataError: the cache holds no whole model.
        MissingExtraError: `huggingface_hub` is not installed.
    """
    repository, revision = parse_source(source)
    is_offline = offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when the library is loaded
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ModuleNotFoundError as error:
        raise MissingExtraError("huggingface_hub", "hub", f"the source {source}") from error
    try:
        folder = Path(
            snapshot_download(
                repository,
                revision=revision,
                cache_dir=cache,
                local_files_only=is_offline,
                allow_patterns=_ALLOWED,
            )
        )
    except GatedRepoError as error:
        raise InputError(
            f"{source}: its authors give it to those who ask", hint="ask on its page, then: hf auth login"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise InputError(
            f"{source}: there is no such model or revision, or it is private", hint="private ones need: hf auth login"
        ) from error
    except LocalEntryNotFoundError as error:
        why = "is not in the cache, and this is offline" if is_offline else "is not in the cache, and the hub is away"
        raise InputError(
            f"{source}: {why}", hint=f"on a machine with network: hf download {repository}, then copy its cache"
        ) from error
    except Exception as error:  # its transports raise types of their own, whose messages may quote what was sent
        raise InputError(f"{source}: could not be fetched: {type(error).__name__}") from error
    return _checked(source, repository, folder)


def parse_source(source: str) -> tuple[str, str | None]:
    """Repository and revision of `hf:org/name[@revision]`.

    Raises:
        InputError: anything else.
    """
    match = _NAME.fullmatch(source)
    if match is None or ".." in source:
        raise InputError(f"{source!r}: expected hf:ORG/NAME or hf:ORG/NAME@REVISION")
    return match[1], match[2]


def _checked(source: str, repository: str, folder: Path) -> Snapshot:
    if not _COMMIT.fullmatch(folder.name):
        raise DataError(f"{source}: expected a cache folder named for a commit, got {folder.name!r}")
    names = {path.name for path in folder.iterdir()}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise DataError(
            f"{source}: commit {folder.name[:12]} has no config.json with safetensors: found "
            f"{', '.join(sorted(names)) or 'nothing'}",
            hint="a model in another format is brought as a local file: --from FILE.gguf or --from DIR",
        )
    return Snapshot(repository, folder.name, folder)
