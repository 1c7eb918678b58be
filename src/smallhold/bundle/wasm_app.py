"""One WebAssembly module of engine, model and plan: the engine's program for WASI with a verified bundle inside it.

The bundle and the keys, laid out as in `app.py`, become a passive data segment; one function of the program, which says
that there is none, is replaced by instructions that copy the segment (`engine/src/bin/smallhold-engine/inside.rs`).

Source: WebAssembly Core Specification 2.0, section 5 (binary format).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from smallhold.bundle.app import MAGIC, AppSize, bundle_for_engine
from smallhold.device.bounded_file import read_bounded
from smallhold.device.durable_file import write_durably
from smallhold.errors import BundleError, InputError

_PROGRAM = Path(__file__).parents[3] / "engine" / "target" / "wasm32-wasip1" / "release" / "smallhold-engine.wasm"
_MOST_PROGRAM_BYTES = 2**26
_HEADER = b"\0asm\1\0\0\0"
_CODE, _DATA, _DATA_COUNT = 10, 11, 12
_MARK = 0x73682D6170702F31
_PASSIVE = b"\1"


def write_wasm_app(
    bundle: Path, out: Path, *, trusted_keys: Path, now: datetime, program: Path | None = None
) -> AppSize:
    """Verify a bundle and write it as a module that any WASI host runs.

    Args:
        bundle: See `bundle_for_engine`.
        out: The module; it appears whole or not at all.
        trusted_keys: Folder of public keys, which the app carries and verifies itself by at every start.
        now: Moment that expiry is judged by.
        program: The engine's program for WASI; default: where `engine/build.sh wasm32-wasip1` builds it.

    Raises:
        BundleError: see `bundle_for_engine`; or the program was not found.
        InputError: the program is none, is an app already, or the file could not be written.
    """
    inside = bundle_for_engine(bundle, trusted_keys=trusted_keys, now=now)
    path = program or _PROGRAM
    if program is None and not path.is_file():
        raise BundleError(
            f"the engine's program for WASI was not found at {path}",
            hint="engine/build.sh wasm32-wasip1, or give --engine FILE",
        )
    engine = read_bounded(path, _MOST_PROGRAM_BYTES, what="program")
    lengths = len(inside.archive).to_bytes(8, "little") + len(inside.keys).to_bytes(8, "little")
    module = put_inside(engine, inside.archive + inside.keys + lengths + MAGIC, str(path))
    try:
        write_durably(out, [module], mode=0o755)
    except OSError as error:
        raise InputError(f"{out} could not be written: {error}") from error
    return AppSize(len(module), len(engine), inside.left_out)


def put_inside(program: bytes, data: bytes, name: str) -> bytes:
    """The program with `data` as what its marked function gives.

    Args:
        program: A module of `inside.rs`.
        data: The bytes.
        name: What the program is called in errors.

    Raises:
        InputError: not such a module.
    """
    try:
        sections = list(_sections(program))
        found = {kind: body for kind, body in sections if kind in (_CODE, _DATA)}
        segments, behind = _read_number(found[_DATA], 0)
        changed = {
            _CODE: _replace_marked(found[_CODE], segments, len(data)),
            _DATA: _number(segments + 1) + found[_DATA][behind:] + _PASSIVE + _number(len(data)) + data,
        }
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(
            f"program {name}: expected the engine's program for WASI: {error}", hint="engine/build.sh wasm32-wasip1"
        ) from error
    made = [_HEADER]
    for kind, body in sections:
        if kind == _DATA_COUNT:
            continue
        if kind == _CODE:  # the count of segments stands before the code that names one
            made.append(_section(_DATA_COUNT, _number(segments + 1)))
        made.append(_section(kind, changed.get(kind, body)))
    return b"".join(made)


def _replace_marked(code: bytes, segment: int, length: int) -> bytes:
    """The code section with other instructions in the marked function."""
    mark = b"\x42" + _signed_number(_MARK)  # i64.const
    count, at = _read_number(code, 0)
    made, replaced = [_number(count)], 0
    for _ in range(count):
        size, start = _read_number(code, at)
        at = start + size
        body = code[start:at]
        if mark in body:
            body, replaced = _copying(segment, length), replaced + 1
        made += [_number(len(body)), body]
    if replaced != 1 or at != len(code):
        raise ValueError(f"{replaced} functions have the mark of the place for a bundle, not one")
    return b"".join(made)


def _copying(segment: int, length: int) -> bytes:
    """Instructions for (to, count) -> length, which copy `count` bytes of the segment to `to`."""
    get_to, get_count, constant, end = b"\x20\x00", b"\x20\x01", b"\x41", b"\x0b"
    copy = get_to + constant + b"\x00" + get_count + b"\xfc\x08" + _number(segment) + b"\x00"  # memory.init
    return b"\x00" + copy + constant + _signed_number(length) + end


def _sections(module: bytes) -> Iterator[tuple[int, bytes]]:
    if not module.startswith(_HEADER):
        raise ValueError("it is no WebAssembly module")
    at = len(_HEADER)
    while at < len(module):
        size, start = _read_number(module, at + 1)
        if start + size > len(module):
            raise ValueError("it is cut off")
        yield module[at], module[start : start + size]
        at = start + size


def _section(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + _number(len(body)) + body


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number, and what follows it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _number(value: int) -> bytes:
    """Unsigned LEB128."""
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def _signed_number(value: int) -> bytes:
    """Signed LEB128 of a number that is not negative."""
    made = bytearray()
    while value >= 0x40:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])
