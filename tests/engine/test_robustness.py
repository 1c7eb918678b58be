"""What must never crash: empty and absurd input, numbers that are none, and memory that ends."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tests.engine.program import LONGEST_SECONDS, MODELS
from tests.engine_library import ENGINE, build_engine

from smallhold.device.backends.engine import EngineBackend, find_library
from smallhold.device.zip_layout import encode_zip
from smallhold.errors import BackendError, CapacityError, ShapeError

HERE = Path(__file__).parent
MALFORMED, SHAPE, CAPACITY, MEMORY = 1, 3, 4, 5
REQUESTS = (
    {"task": "triage", "text": "Red, itchy patches on both elbows"},
    {"task": "icu-risk", "patient": "7", "static": [0.4, 1, 0, 0, 0, 1, 0, 0, 0]},
    {"task": "icu-risk", "patient": "7", "observe": [["HR", 131.0]], "close": 40, "decide": True, "explain": True},
    {"task": "icu-risk", "patient": "7", "observe": [["HR", 90.0]], "close": True, "decide": True},
    {
        "task": "icu-risk",
        "patient": "w",
        "static": [0.4, 1, 0, 0, 0, 1, 0, 0, 0],
        "words": True,
        "close": 12,
        "decide": True,
    },
)
MEGABYTE = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def library() -> ctypes.CDLL:
    build_engine()
    return ctypes.CDLL(str(find_library()))


@pytest.fixture(scope="module")
def seeds() -> ModuleType:
    spec = importlib.util.spec_from_file_location("seeds", ENGINE / "fuzz" / "seeds.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return one_file(MODELS / "hospital", tmp_path_factory.mktemp("bundle") / "hospital.zip")


def one_file(folder: Path, path: Path) -> Path:
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    sizes = {name: (folder / name).stat().st_size for name in names}
    path.write_bytes(b"".join(encode_zip(sizes, lambda name: [(folder / name).read_bytes()])))
    return path


class Program:
    """A bundle behind the C interface, that its host has verified."""

    def __init__(self, library: ctypes.CDLL, bundle: bytes) -> None:
        self._library, self._handle = library, ctypes.c_void_p()
        message = ctypes.create_string_buffer(512)
        self.kind = library.smallhold_program_from_bytes(
            bundle, ctypes.c_size_t(len(bundle)), None, ctypes.c_uint64(0), None, ctypes.byref(self._handle), message
        )
        self.message = message.value.decode()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.smallhold_program_free(self._handle)

    def ask(self, request: bytes) -> tuple[int, dict[str, Any]]:
        answer = ctypes.c_char_p()
        kind = self._library.smallhold_program_ask(
            self._handle, request, ctypes.c_size_t(len(request)), ctypes.byref(answer)
        )
        assert answer.value is not None
        return kind, json.loads(answer.value)


@pytest.fixture
def tiny(library: ctypes.CDLL, seeds: ModuleType) -> Iterator[Program]:
    with Program(library, tiny_bundle(seeds)) as program:
        assert program.kind == 0, program.message
        yield program


def tiny_bundle(seeds: ModuleType, **changed: bytes) -> bytes:
    """The bundle that the fuzz targets mutate; `changed` replaces parts by the names of `make_parts`, `.` as `_`."""
    places = {
        "gguf/trunk.gguf": "trunk.gguf",
        "gguf/x.encoder.gguf": "encoder.gguf",
        "ngrams/x.npz": "ngrams.npz",
        "tasks/x.json": "text.json",
        "tasks/y.json": "signal-y.json",
    }
    parts = seeds.make_parts()
    members = {
        place: changed.get(part.replace(".", "_").replace("-", "_"), parts[part]) for place, part in places.items()
    }
    members["manifest.json"] = seeds.manifest_of(members, tasks=["x", "y"])
    return seeds.archive(members)  # type: ignore[no-any-return]


def test_what_the_fuzz_targets_begin_with_is_answered(tiny: Program, seeds: ModuleType) -> None:
    for line in seeds.request_lines():
        kind, answer = tiny.ask(line)
        assert kind == 0, answer
    kind, answer = tiny.ask(b'{"task": "x", "text": "Red, itchy"}')
    assert sum(answer["answers"]["kind"]["probabilities"].values()) == pytest.approx(1)


def test_nothing_is_refused_in_words(library: ctypes.CDLL, tiny: Program) -> None:
    found, message = ctypes.c_void_p(), ctypes.create_string_buffer(512)
    rest = (None, ctypes.c_size_t(0), None, ctypes.byref(found))
    assert library.smallhold_model_from_bytes(*rest, None, message) == MALFORMED
    assert b"truncated" in message.value
    assert library.smallhold_signal_from_bytes(*rest, message) == MALFORMED
    assert b"truncated" in message.value
    with Program(library, b"") as program:
        assert (program.kind, "ZIP: byte 0" in program.message) == (MALFORMED, True)
    for request in (b"", b" ", b"\0", b"{}", b"[]"):
        kind, answer = tiny.ask(request)
        assert kind == MALFORMED
        assert answer["error"]["kind"] == "malformed"
    assert tiny.ask(b'{"task": "x", "text": ""}')[1]["error"]["kind"] == "shape"


def test_parts_that_are_cut_or_of_another_kind_are_refused(library: ctypes.CDLL, seeds: ModuleType) -> None:
    parts = seeds.make_parts()
    for name in ("trunk.gguf", "encoder.gguf", "ngrams.npz", "text.json", "signal-y.json"):
        place, data = name.replace(".", "_").replace("-", "_"), parts[name]
        damaged = [data[: len(data) * cut // 16] for cut in range(16)] + [parts["golden.pem"], data[1:], b"\0" + data]
        for other in damaged:
            with Program(library, tiny_bundle(seeds, **{place: other})) as program:
                assert program.kind not in (0, MEMORY), name
                assert program.message


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_embeddings_that_are_no_numbers_are_refused_and_change_nothing(seeds: ModuleType, family: str) -> None:
    backend = EngineBackend(seeds.weights(family, 8))
    session = backend.session()
    good = np.full((3, backend.width), 0.1, np.float32)
    session.append(good)
    expected = session.score(good, [0])
    for wrong in (np.nan, np.inf, -np.inf):
        bad = good.copy()
        bad[1, 5] = wrong
        with pytest.raises(ShapeError, match=r"expected finite numbers, got .* at \(1, 5\)"):
            session.append(bad)
        with pytest.raises(ShapeError, match="finite"):
            session.score(bad, [2])
    assert session.length == 3
    np.testing.assert_array_equal(session.score(good, [0]), expected)


def test_a_prompt_beyond_the_context_is_refused_before_memory_is_taken(seeds: ModuleType, library: ctypes.CDLL) -> None:
    backend = EngineBackend(seeds.weights("llama", 8))
    session = backend.session()
    session.append([0] * backend.context_length)
    with pytest.raises(CapacityError):
        session.append([0])
    # So many that their embeddings would take 8 GB; past Python's own check.
    tokens, message = np.zeros(1 << 26, np.uint32), ctypes.create_string_buffer(512)
    with limited_memory(256 * MEGABYTE):
        kind = library.smallhold_session_append(
            ctypes.c_void_p(session._handle),
            ctypes.c_void_p(tokens.ctypes.data),
            None,
            ctypes.c_size_t(tokens.size),
            message,
        )
    assert (kind, b"exceed the context length 64" in message.value) == (CAPACITY, True)
    assert session.length == backend.context_length


def test_a_context_that_a_file_merely_claims_costs_nothing(seeds: ModuleType) -> None:
    with limited_memory(64 * MEGABYTE):
        backend = EngineBackend(seeds.weights("llama", 8, more={"llama.context_length": 1 << 24}))
        session = backend.session()
        session.append([1, 2, 3])
    usual = EngineBackend(seeds.weights("llama", 8)).session()
    usual.append([1, 2, 3])
    np.testing.assert_array_equal(session.score([4], [0]), usual.score([4], [0]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"llama.context_length": 1 << 25}, "context_length: expected a whole number"),
        ({"llama.attention.key_length": 1 << 20, "llama.attention.head_count": 1 << 20}, "expected|impossible"),
        ({"llama.block_count": 1 << 20}, "the file lacks blk.1"),
        ({"general.alignment": 0}, "alignment"),
    ],
)
def test_a_file_that_says_absurd_things_is_refused(seeds: ModuleType, change: dict[str, int], words: str) -> None:
    with limited_memory(64 * MEGABYTE), pytest.raises(BackendError, match=words):
        EngineBackend(seeds.weights("llama", 8, more=change))


def test_counts_beyond_the_file_ask_for_no_memory(seeds: ModuleType) -> None:
    data = bytearray(seeds.trunk())
    for place in (8, 16):  # of tensors and of keys
        absurd = data.copy()
        absurd[place : place + 8] = struct.pack("<Q", (1 << 64) - 1)
        with limited_memory(64 * MEGABYTE), pytest.raises(BackendError):
            EngineBackend(bytes(absurd))


def test_memory_that_ends_at_any_large_allocation_is_an_error(hospital: Path, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a C compiler is missing: make system")
    if not sys.platform.startswith("linux"):
        pytest.skip("needs glibc, below whose names memory is made scarce")
    made = tmp_path / "scarce_memory"
    words = [compiler, "-std=c11", "-O1", "-fno-builtin", "-Wall", "-Wextra", "-Werror", f"-I{ENGINE / 'include'}"]
    words += [str(HERE / "scarce_memory.c"), str(ENGINE / "target" / "release" / "libsmallhold_engine.a")]
    done = subprocess.run(
        [*words, "-lpthread", "-ldl", "-lm", "-o", str(made)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    # 64 KiB and more; what is smaller ends the process, as everywhere in Rust.
    asked = [str(made), str(hospital), str(MODELS / "hospital" / "gguf" / "trunk.gguf"), "65536"]
    done = subprocess.run([*asked, *map(json.dumps, REQUESTS)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    refused, rounds, errors = map(int, done.stdout.split())
    assert errors >= rounds > 50
    assert refused >= rounds


@pytest.mark.parametrize("megabytes", [4, 16, 24, 32, 64])
def test_a_process_with_little_memory_is_told_so(hospital: Path, megabytes: int) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.engine.test_robustness import *\n"
        f"library, data = ctypes.CDLL(str(find_library())), Path({str(hospital)!r}).read_bytes()\n"
        f"with limited_memory({megabytes} * MEGABYTE):\n"
        "    program = Program(library, data)\n"
        "    kinds = [program.ask(json.dumps(r).encode())[0] for r in REQUESTS] if program.kind == 0 else []\n"
        "print(program.kind, *kinds)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LONGEST_SECONDS)
    assert done.returncode == 0, done.stderr
    kinds = {int(kind) for kind in done.stdout.split()}
    assert kinds <= {0, MEMORY}
    assert kinds == ({MEMORY} if megabytes == 4 else {0} if megabytes == 64 else kinds)


class limited_memory:  # noqa: N801 - reads as what it does
    """So many bytes more of address space than the process has now, and no more."""

    def __init__(self, more: int) -> None:
        self._more = more

    def __enter__(self) -> None:
        if not Path("/proc/self/statm").exists():
            pytest.skip("needs /proc to know how much memory the process has")
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        self._before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (now + self._more, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self._before)
