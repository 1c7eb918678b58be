"""Where data sets lie, which ones we know, and how their lines are read.

A data set is a folder named after it that holds `*.jsonl` or `*.jsonl.zst`: one JSON object a line.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smallhold.errors import DataError, MissingExtraError
from smallhold.sectors.catalogue import KNOWN, KnownDataSet, Privacy

__all__ = [
    "KNOWN",
    "KnownDataSet",
    "Privacy",
    "cache_dir",
    "find_data_set",
    "jsonl_files",
    "known_data_set",
    "privacy_of",
    "read_jsonl",
]


def find_data_set(name: str, data_dir: Path | None) -> Path:
    """Find the folder of a data set.

    Looks in `data_dir` alone when it is given (a named directory must never be replaced silently by another);
    otherwise in $SMALLHOLD_DATA, then `./data`, then the user's cache.

    Args:
        name: Name of the data set and of its folder.
        data_dir: What the user gave as `--data`, or None.

    Raises:
        DataError: no such folder; the message lists where it was looked for.
    """
    places = [data_dir] if data_dir is not None else _default_places()
    for place in places:
        folder = place / name
        if folder.is_dir():
            return folder
    raise DataError(
        f"data set {name!r} not found: expected a folder of that name in {', '.join(str(place) for place in places)}",
        hint=f"smallhold data get {name}   (says where to get it and how to lay it out)",
    )


def known_data_set(name: str) -> KnownDataSet:
    """What is known about a data set.

    Raises:
        DataError: nothing is; the message lists the names that are known.
    """
    for known in KNOWN:
        if known.name == name:
            return known
    raise DataError(f"unknown data set {name!r}: expected one of {', '.join(known.name for known in KNOWN)}")


def privacy_of(name: str, otherwise: Privacy = Privacy.PATIENT) -> Privacy:
    """Whom the rows of a data set are about.

    Args:
        name: Name of the data set.
        otherwise: What a data set is that the catalogue does not know.
    """
    return next((known.privacy for known in KNOWN if known.name == name), otherwise)


def cache_dir() -> Path:
    """The last place where data sets are looked for: $XDG_CACHE_HOME/smallhold/data."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "smallhold" / "data"


def _default_places() -> list[Path]:
    named = os.environ.get("SMALLHOLD_DATA")
    return [*([Path(named).expanduser()] if named else []), Path("data"), cache_dir()]


def jsonl_files(folder: Path) -> list[Path]:
    """All `*.jsonl` and `*.jsonl.zst` of a folder in order of their names, which makes reading repeatable.

    Raises:
        DataError: there is none.
    """
    files = sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.zst")])
    if not files:
        raise DataError(f"{folder}: expected at least one file *.jsonl or *.jsonl.zst, found none")
    return files


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Read a file of JSON objects, one a line, plain or compressed with Zstandard.

    Args:
        path: A file whose name ends in `.jsonl` or `.jsonl.zst`.

    Yields:
        One dict a line, in order; nothing is held back, so memory stays small.

    Raises:
        DataError: the file is missing, cut short, corrupt, or a line is not a JSON object; the message names file
            and line. A last line without its line end counts as cut short.
        MissingExtraError: the file is compressed and `zstandard` is not installed.
    """
    line_number = 0
    for line_number, line in enumerate(_lines(path), start=1):
        where = f"{path}, line {line_number}"
        if not line.endswith(b"\n"):
            raise DataError(f"{where}: the file is cut short: expected every line to end with a line feed")
        try:
            row = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or absurdly nested
            raise DataError(f"{where}: expected a JSON object, got {_excerpt(line)}: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected a JSON object, got {_excerpt(line)}")
        yield row
    if line_number == 0:
        raise DataError(f"{path}: expected at least one line, the file is empty")


def _lines(path: Path) -> Iterator[bytes]:
    """Raw lines with their ends; what goes wrong underneath becomes a DataError naming the line."""
    count = 0
    try:
        with path.open("rb") as raw:
            for line in _decompressed(raw, path) if path.suffix == ".zst" else raw:
                count += 1
                yield line
    except OSError as error:
        raise DataError(f"{path}: cannot be read after line {count}: {error.strerror or error}") from error


def _decompressed(raw: io.BufferedReader, path: Path) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtraError("zstandard", "data", f"Reading {path.name}") from error
    # decompressobj, unlike stream_reader, tells whether the last frame was complete.
    rest, frame, count = b"", zstandard.ZstdDecompressor().decompressobj(), 0
    is_empty = True
    try:
        while block := raw.read(1 << 18):
            is_empty = False
            while block:
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                *lines, rest = (rest + frame.decompress(block)).split(b"\n")
                for line in lines:
                    count += 1
                    yield line + b"\n"
                block = frame.unused_data  # belongs to the next frame
    except zstandard.ZstdError as error:
        raise DataError(f"{path}, line {count + 1}: the compressed file is corrupt: {error}") from error
    if not (is_empty or frame.eof):
        raise DataError(f"{path}, line {count + 1}: the compressed file is cut short")
    if rest:
        yield rest


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _excerpt(line: bytes) -> str:
    # The row may be about a person: say what kind of thing it is, not what it says.
    first = line.lstrip()[:1]
    kinds = {b"": "an empty line", b"{": "a broken object", b"[": "an array"}
    return kinds.get(first, "something else")
