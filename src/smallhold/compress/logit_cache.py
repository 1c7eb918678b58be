"""What a teacher said about a corpus slice, on disk: read while the student trains, the teacher long gone.

A cache is a folder::

    manifest.json        what was asked of whom: digests of teacher, tokenizer and corpus, layout, size
    shard-00000.bin      32 bytes of SHA-256, then records (see `logit_packing`), token after token

A shard appears whole or not at all. Its digest also covers the manifest and its own number, so that a shard of another
cache, or in another place, is refused. Shards are a pure function of the manifest and the teacher: a writer that was
killed continues with the first shard that is missing and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smallhold.compress.logit_packing import RecordLayout, SparseTargets, pack_logits, unpack
from smallhold.device.durable_file import write_durably
from smallhold.errors import DataError, RecipeError, ShapeError
from smallhold.records import canonical_json, sha256_hex

MANIFEST = "manifest.json"
_FORMAT = 2
_DIGEST_BYTES = 32
_ROWS_AT_ONCE = 256  # of logits while they are packed

#: First window and number of windows to their teacher's logits (n, T, V).
Teacher = Callable[[int, int], NDArray[np.float32]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheManifest:
    """What a cache holds; two with equal manifests and teachers hold equal bytes.

    Attributes:
        teacher_digest: SHA-256 of the teacher's weights.
        tokenizer_digest: SHA-256 of its `tokenizer.json`.
        corpus_digest: SHA-256 of the token ids of the slice (`corpus_digest`).
        layout: Of a record.
        num_windows: Windows of the slice.
        window: Tokens of a window for which logits are kept.
        windows_per_shard: Windows of a shard; the last may hold fewer.
        temperature: By which the teacher's logits were divided.
        seed: Of the draws.
    """

    teacher_digest: str
    tokenizer_digest: str
    corpus_digest: str
    layout: RecordLayout
    num_windows: int
    window: int
    windows_per_shard: int = 256
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse an empty cache."""
        for name in ("num_windows", "window", "windows_per_shard"):
            if getattr(self, name) < 1:
                raise RecipeError(f"cache.{name}: expected at least 1, got {getattr(self, name)}")
        if not 0 < self.temperature < float("inf"):
            raise RecipeError(f"cache.temperature: expected a positive number, got {self.temperature}")

    @property
    def num_tokens(self) -> int:
        """Tokens in all."""
        return self.num_windows * self.window

    @property
    def num_shards(self) -> int:
        """Shards in all."""
        return -(-self.num_windows // self.windows_per_shard)

    def shard_windows(self, shard: int) -> range:
        """Windows of one shard."""
        start = shard * self.windows_per_shard
        return range(start, min(start + self.windows_per_shard, self.num_windows))

    def to_bytes(self) -> bytes:
        """As JSON."""
        return canonical_json({"format": _FORMAT, **asdict(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> CacheManifest:
        """Read a manifest.

        Raises:
            DataError: malformed or of another format.
        """
        try:
            value = json.loads(data)
            if value.pop("format") != _FORMAT:
                raise DataError("cache: written by another version", hint="delete the folder and write it again")
            return cls(**value | {"layout": RecordLayout(**value["layout"])})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"cache: {MANIFEST} is malformed: {error}") from error


def corpus_digest(windows: NDArray[np.integer]) -> str:
    """Digest of token ids (W, T) that a cache was made of."""
    return sha256_hex(canonical_json(list(windows.shape)) + np.ascontiguousarray(windows, dtype="<i8").tobytes())


def write_cache(folder: Path, manifest: CacheManifest, teacher: Teacher, *, progress: Progress) -> None:
    """Ask the teacher about every window that is not cached yet.

    Args:
        folder: Made when absent; an unfinished cache with an equal manifest is continued.
        manifest: What to hold.
        teacher: Logits of some windows; called with at most `windows_per_shard` of them.
        progress: Called with the shards done and in all.

    Raises:
        DataError: the folder holds a cache of something else.
        ShapeError: the teacher answers in another shape.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MANIFEST
    if path.exists():
        _same(CacheManifest.from_bytes(path.read_bytes()), manifest, folder)
    else:
        write_durably(path, [manifest.to_bytes()], mode=0o644)
    for shard in range(manifest.num_shards):
        if not _shard_path(folder, shard).exists():
            records = _ask(manifest, shard, teacher)
            write_durably(_shard_path(folder, shard), [_digest(manifest, shard, records), records], mode=0o644)
        progress(shard + 1, manifest.num_shards)


def _ask(manifest: CacheManifest, shard: int, teacher: Teacher) -> bytes:
    windows = manifest.shard_windows(shard)
    logits = teacher(windows.start, len(windows))
    expected = (len(windows), manifest.window, manifest.layout.vocab_size)
    if logits.shape != expected:
        raise ShapeError(f"teacher: expected logits {expected}, got {logits.shape}")
    rows = logits.reshape(-1, expected[2])
    rng = np.random.default_rng([manifest.seed, shard])
    return b"".join(
        pack_logits(manifest.layout, rows[i : i + _ROWS_AT_ONCE] / np.float32(manifest.temperature), rng).tobytes()
        for i in range(0, len(rows), _ROWS_AT_ONCE)
    )


class LogitCache:
    """A finished cache; shards are mapped into memory when first read, and checked then."""

    def __init__(self, folder: Path, *, expected: CacheManifest | None = None) -> None:
        """Open.

        Args:
            folder: Of the cache.
            expected: What the student is about to be taught; a cache of something else is refused.

        Raises:
            DataError: no cache, not finished, or of something else.
        """
        try:
            self.manifest = CacheManifest.from_bytes((folder / MANIFEST).read_bytes())
        except FileNotFoundError as error:
            raise DataError(f"cache {folder}: {MANIFEST} is missing") from error
        if expected is not None:
            _same(self.manifest, expected, folder)
        missing = [i for i in range(self.manifest.num_shards) if not _shard_path(folder, i).exists()]
        if missing:
            raise DataError(
                f"cache {folder}: {len(missing)} of {self.manifest.num_shards} shards are missing",
                hint="run the command that writes it again; it continues",
            )
        self._folder = folder
        self._shards: dict[int, NDArray[np.uint8]] = {}

    @property
    def size_bytes(self) -> int:
        """Bytes of all records."""
        return self.manifest.num_tokens * self.manifest.layout.num_bytes

    def windows(self, rows: NDArray[np.integer]) -> SparseTargets:
        """Targets of whole windows: fields (B, T, ...)."""
        return self.tokens(np.asarray(rows)[:, None] * self.manifest.window + np.arange(self.manifest.window))

    def tokens(self, positions: NDArray[np.integer]) -> SparseTargets:
        """Targets of tokens anywhere, by window * T + place: fields (..., K) for positions (...).

        Raises:
            ShapeError: a position beyond the cache.
            DataError: a shard is damaged.
        """
        manifest = self.manifest
        flat = np.asarray(positions, dtype=np.int64).ravel()
        if flat.size and not 0 <= flat.min() <= flat.max() < manifest.num_tokens:
            raise ShapeError(
                f"cache: expected positions 0 to {manifest.num_tokens - 1}, got {flat.min()} to {flat.max()}"
            )
        records = np.empty((len(flat), manifest.layout.num_bytes), np.uint8)
        shard_of, place = np.divmod(flat, manifest.windows_per_shard * manifest.window)
        for shard in np.unique(shard_of):
            mine = shard_of == shard
            records[mine] = self._shard(int(shard))[place[mine]]
        return unpack(manifest.layout, records.reshape(*np.shape(positions), -1))

    def _shard(self, shard: int) -> NDArray[np.uint8]:
        if shard not in self._shards:
            path = _shard_path(self._folder, shard)
            data = np.memmap(path, np.uint8, mode="r")
            length = len(self.manifest.shard_windows(shard)) * self.manifest.window * self.manifest.layout.num_bytes
            body = data[_DIGEST_BYTES:]
            if len(body) != length or data[:_DIGEST_BYTES].tobytes() != _digest(self.manifest, shard, body.data):
                raise DataError(f"{path}: damaged or of another cache", hint=f"delete {path} and write the cache again")
            self._shards[shard] = body.reshape(-1, self.manifest.layout.num_bytes)
        return self._shards[shard]


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}.bin"


def _digest(manifest: CacheManifest, shard: int, records: bytes | memoryview) -> bytes:
    state = hashlib.sha256(manifest.to_bytes())
    state.update(shard.to_bytes(8, "big"))
    state.update(records)
    return state.digest()


def _same(found: CacheManifest, wanted: CacheManifest, folder: Path) -> None:
    theirs, ours = asdict(found), asdict(wanted)
    other = [f"{name}: {theirs[name]}, not {ours[name]}" for name in ours if theirs[name] != ours[name]]
    if other:
        raise DataError(f"cache {folder}: made for something else ({'; '.join(other)})", hint="choose another folder")
