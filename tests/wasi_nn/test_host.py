"""The host: what a guest may use, what it may spend, and that nothing it does reaches beyond it."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("wasmtime", reason="the host runs on wasmtime: pip install 'smallhold[wasm]'")

from smallhold.cli.main import main
from smallhold.device.backends.reference import ReferenceBackend
from smallhold.device.wasi_nn import Grant, Guest, Limits, Model, run_guest
from smallhold.errors import GuestError, InputError

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "conformance" / "v1"
LOOP = b'(module (func (export "_start") (loop $again (br $again))))'
NN = """
  (import "wasi_ephemeral_nn" "load" (func $load (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "load_by_name" (func $load_by_name (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "init_execution_context" (func $init (param i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "set_input" (func $set_input (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "compute" (func $compute (param i32) (result i32)))
  (import "wasi_ephemeral_nn" "get_output" (func $get_output (param i32 i32 i32 i32 i32) (result i32)))
"""


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    from tokenizers import Tokenizer

    backend = ReferenceBackend((GOLDEN / "bundle" / "gguf" / "trunk.gguf").read_bytes())
    return {"golden": Model(backend, Tokenizer.from_file(str(GOLDEN / "bundle" / "tokenizer.json")))}


def data(at: int, content: bytes) -> str:
    escaped = "".join(f"\\{byte:02x}" for byte in content)
    return f'(data (i32.const {at}) "{escaped}")'


def tensor(kind: int, shape: tuple[int, ...], content: bytes) -> str:
    """A record at 64, dimensions at 96, content at 128."""
    record = struct.pack("<5I", 96, len(shape), kind, 128, len(content))
    return data(64, record) + data(96, struct.pack(f"<{len(shape)}I", *shape)) + data(128, content)


# --- Limits ---


def test_a_guest_that_never_ends_is_stopped_by_time_and_by_fuel() -> None:
    begun = time.monotonic()
    with pytest.raises(GuestError, match=r"still running after 0\.3 s"):
        run_guest(LOOP, {}, limits=Limits(seconds=0.3, fuel=0))
    assert time.monotonic() - begun < 10
    with pytest.raises(GuestError, match="used up 100,000 units of fuel"):
        run_guest(LOOP, {}, limits=Limits(fuel=100_000))


def test_a_guest_may_not_begin_a_pass_after_its_time(models: dict[str, Model]) -> None:
    guest = Guest(f'(module {NN} (func (export "run") (result i32) (call $compute (i32.const 0))))'.encode(), models)
    guest.call("run")
    guest.calls.deadline = 0.0
    assert guest.calls.refusals
    guest.limits = Limits(seconds=1e-9)
    with pytest.raises(GuestError, match="still running"):
        for _ in range(1000):  # the timer and the check race; one of them is first
            guest.call("run")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("(unreachable)", "unreachable"),
        ("(call $start)", "call stack exhausted"),
        ("(drop (i32.load (i32.const -4)))", "out of bounds memory access"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "divide by zero"),
    ],
)
def test_a_guest_that_breaks_off_is_an_error_and_the_host_goes_on(body: str, message: str) -> None:
    with pytest.raises(GuestError, match=f"broke off: .*{message}"):
        run_guest(f'(module (memory 1) (func $start (export "_start") {body}))'.encode(), {})
    assert run_guest(b'(module (func (export "_start")))', {}).exit_code == 0


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (b"(modul", "not a WebAssembly module"),
        (b"\0asm\1\0\0\0\xff", "not a WebAssembly module"),
        (b"", "no function '_start'|not a WebAssembly module"),
        (b'(module (import "env" "system" (func (param i32))))', "unknown import"),
        (b'(module (import "wasi_ephemeral_nn" "compute" (func (param i64) (result i32))))', "types incompatible"),
        (b"(module)", "exports no function '_start'"),
        (b"(module (memory 4097))", "memory"),
        (b"(module (table 200000 funcref))", "table"),
        (b"(module (memory 1) (memory 1))", "not a WebAssembly module"),
        (b"(module (start $f) (func $f (loop $l (br $l))))", "used up"),
    ],
)
def test_what_is_no_such_guest_is_refused(module: bytes, message: str) -> None:
    with pytest.raises(GuestError, match=message):
        run_guest(module, {}, limits=Limits(fuel=1_000_000))


def test_a_guest_larger_than_granted_is_refused_unread() -> None:
    with pytest.raises(GuestError, match="at most 8 bytes, got 59"):
        run_guest(LOOP, {}, limits=Limits(module_bytes=8))


PRINTER = f"""(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) {data(0, struct.pack("<2I", 8, 6))} {data(8, b"hello" + bytes([10]))}
  (func (export "_start") (local $n i32)
    (loop $again
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))
      (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const TIMES))))))"""


def test_output_is_passed_on_as_it_comes_and_bounded() -> None:
    heard: list[bytes] = []
    outcome = run_guest(PRINTER.replace("TIMES", "3").encode(), {}, stdout=heard.append)
    assert (b"".join(heard), outcome.stdout, outcome.stderr) == (b"hello\n" * 3, b"hello\n" * 3, b"")
    assert outcome.fuel > 0
    with pytest.raises(GuestError, match="more than 1,000 bytes to standard output"):
        run_guest(PRINTER.replace("TIMES", "100000000").encode(), {}, limits=Limits(output_bytes=1000, fuel=0))


def test_a_reader_that_goes_away_ends_the_guest(capfd: pytest.CaptureFixture[str]) -> None:
    def closed(_: bytes) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    for times in ("1", "100000000"):
        with pytest.raises(BrokenPipeError):
            run_guest(PRINTER.replace("TIMES", times).encode(), {}, stdout=closed, limits=Limits(fuel=0))
    assert capfd.readouterr() == ("", "")


def test_sleeping_is_refused_and_the_exit_code_is_the_guests() -> None:
    module = """(module
      (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (func (export "_start") (call $exit (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"""
    assert run_guest(module.encode(), {}).exit_code == 58


def test_limits_that_nothing_stays_within_are_refused() -> None:
    for wrong in ({"seconds": 0.0}, {"memory_bytes": 2**33}, {"handles": -1}, {"seconds": float("nan")}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Limits(**wrong)  # type: ignore[arg-type]


# --- Files ---

READER = f"""(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 1) {data(0, b"note.txt")} {data(16, b"../secret.txt")}
  (func (export "read") (param $name i32) (param $bytes i32) (result i32)
    (call $open (i32.const 3) (i32.const 0) (local.get $name) (local.get $bytes) (i32.const 0)
      (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 64)))
  (func (export "make") (result i32)
    (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 7) (i32.const 1)
      (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 64))))"""
BAD_FILE, NOT_PERMITTED, NOT_ALLOWED = 8, 63, 76


def test_a_guest_sees_the_files_that_were_granted_and_no_others(tmp_path: Path) -> None:
    folder = tmp_path / "granted"
    folder.mkdir()
    (folder / "note.txt").write_text("hello")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    assert Guest(READER.encode(), {}).call("read", 0, 8) == BAD_FILE
    for is_writable in (False, True):
        guest = Guest(READER.encode(), {}, grants=[Grant(folder, "notes", is_writable)])
        assert guest.call("read", 0, 8) == 0
        assert guest.call("read", 16, 13) in (NOT_PERMITTED, NOT_ALLOWED)
        assert (guest.call("make") == 0) == is_writable
        assert (folder / "note.tx").exists() == is_writable
    with pytest.raises(InputError, match="expected a directory"):
        Guest(READER.encode(), {}, grants=[Grant(folder / "note.txt", "x")])


# --- Models ---


def test_embeddings_and_tokens_enter_by_the_same_input(models: dict[str, Model]) -> None:
    backend = models["golden"].backend
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(3, backend.width)).astype(np.float32)
    module = f"""(module {NN} (memory (export "memory") 1) {data(0, b"golden")}
      {tensor(1, (1, 3, backend.width), embeddings.tobytes())}
      (func (export "run") (result i32)
        (drop (call $load_by_name (i32.const 0) (i32.const 6) (i32.const 32)))
        (drop (call $init (i32.const 0) (i32.const 36)))
        (drop (call $set_input (i32.const 0) (i32.const 0) (i32.const 64)))
        (drop (call $compute (i32.const 0)))
        (call $get_output (i32.const 0) (i32.const 0) (i32.const 8192) (i32.const 4096) (i32.const 40))))"""
    guest = Guest(module.encode(), models)
    assert guest.call("run") == 0, guest.calls.refusals
    found = np.frombuffer(guest.memory(8192, 4 * backend.vocab_size), np.float32)
    np.testing.assert_array_equal(found, backend.session().score(embeddings, [2])[0])
    with pytest.raises(GuestError, match="no 8 bytes of memory"):
        guest.memory(65532, 8)


def test_one_call_does_what_three_do(models: dict[str, Model]) -> None:
    module = f"""(module {NN}
      (import "smallhold_nn" "step" (func $step (param i32 i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1) {data(0, b"golden#session")} {tensor(4, (2,), struct.pack("<2i", 38, 170))}
      (func (export "open") (result i32)
        (drop (call $load_by_name (i32.const 0) (i32.const 14) (i32.const 32)))
        (drop (call $init (i32.const 0) (i32.const 36)))
        (call $set_input (i32.const 0) (i32.const 3) (i32.const 64)))  ;; rows 38 and 170, too
      (func (export "step") (param $room i32) (result i32)
        (call $step (i32.const 0) (i32.const 0) (i32.const 64) (i32.const 512) (local.get $room)))
      (func (export "read") (result i32)
        (call $get_output (i32.const 0) (i32.const 0) (i32.const 520) (i32.const 8) (i32.const 40))))"""
    guest = Guest(module.encode(), models)
    assert guest.call("open") == 0
    assert guest.call("step", 8) == 0, guest.calls.refusals
    session = models["golden"].backend.session()
    session.append([38, 170])
    expected = session.score([], [-1], [38, 170])[0]
    np.testing.assert_array_equal(np.frombuffer(guest.memory(512, 8), np.float32), expected)
    assert guest.call("step", 4) == 7  # the pass is made, and its output waits
    session.append([38, 170])
    assert guest.call("read") == 0
    np.testing.assert_array_equal(
        np.frombuffer(guest.memory(520, 8), np.float32), session.score([], [-1], [38, 170])[0]
    )
    assert guest.call("step", -1) == 1


def test_a_runtime_that_fails_is_a_runtime_error_and_the_session_knows_where_it_is(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    from smallhold.device.backends.reference import ReferenceSession
    from smallhold.device.wasi_nn.errno import Errno
    from smallhold.errors import BackendError

    guest = Guest(b'(module (memory (export "memory") 1))', models)
    room = guest.calls._room
    from smallhold.device.wasi_nn.models import SequenceContext, SequenceGraph

    context = SequenceContext(SequenceGraph(models["golden"].backend, is_kept=True), room)
    context.set_input(0, np.array([1, 2, 3, 4], np.int32))
    context.compute()
    assert (context.length, room.positions) == (4, 4)
    context.set_input(4, np.array([1], np.int32))
    context.set_input(0, np.array([5], np.int32))
    with monkeypatch.context() as broken:
        broken.setattr(ReferenceSession, "append", lambda *_: (_ for _ in ()).throw(BackendError("out of order")))
        with pytest.raises(BackendError) as failure:
            context.compute()
    assert guest.calls.refused("compute", failure.value) == Errno.RUNTIME_ERROR
    assert (context.length, context.session.length, room.positions) == (1, 1, 1)


def onnx_bytes(*, outside: bool = False) -> bytes:
    onnx = pytest.importorskip("onnx", reason="graphs are written with onnx, the extra 'train'")
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.array([[1, 2], [3, 4]], np.float32), "w")
    if outside:
        onnx.external_data_helper.set_external_data(weight, "/etc/passwd")
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])],
        [weight],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 9
    return bytes(made.SerializeToString())


def loading(graph: bytes) -> str:
    return f"""(module {NN} (memory (export "memory") 1)
      {data(0, struct.pack("<2I", 1024, len(graph)))} {data(1024, graph)}
      {tensor(1, (1, 2), struct.pack("<2f", 1, 10))}
      (func (export "load") (result i32)
        (call $load (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 32)))
      (func (export "run") (result i32)
        (drop (call $init (i32.const 0) (i32.const 36)))
        (drop (call $set_input (i32.const 0) (i32.const 0) (i32.const 64)))
        (drop (call $compute (i32.const 0)))
        (call $get_output (i32.const 0) (i32.const 0) (i32.const 512) (i32.const 8) (i32.const 40))))"""


def test_a_model_of_the_guests_own_needs_a_grant() -> None:
    module = loading(onnx_bytes()).encode()
    assert Guest(module, {}).call("load") == 6  # unsupported operation
    assert Guest(module, {}, limits=Limits(model_bytes=100)).call("load") == 7  # too large
    guest = Guest(module, {}, limits=Limits(model_bytes=10_000))
    assert guest.call("load") == 0, guest.calls.refusals
    assert guest.call("run") == 0, guest.calls.refusals
    assert struct.unpack("<2f", guest.memory(512, 8)) == (31, 42)


def test_a_graph_that_is_none_or_names_a_file_is_refused() -> None:
    for graph, reason in (
        (onnx_bytes(outside=True), "other files"),
        (b"no graph at all", ""),
        (onnx_bytes()[:-20], ""),
    ):
        guest = Guest(loading(graph).encode(), {}, limits=Limits(model_bytes=10_000))
        assert guest.call("load") == 2  # invalid encoding
        assert reason in guest.calls.refusals[0]


def test_what_no_pass_could_use_is_not_kept(models: dict[str, Model]) -> None:
    """A guest with many contexts could else fill the host's memory with inputs."""
    many = 100_000
    module = f"""(module {NN} (memory (export "memory") 8) {data(0, b"golden#session")} {data(32, b"golden#text")}
      {data(64, struct.pack("<5I", 96, 1, 4, 128, 4 * many))} {data(96, struct.pack("<I", many))}
      {data(104, struct.pack("<5I", 124, 1, 3, 128, 300_000))} {data(124, struct.pack("<I", 300_000))}
      (func (export "open") (param $name i32) (param $bytes i32) (param $handle i32) (result i32)
        (drop (call $load_by_name (local.get $name) (local.get $bytes) (i32.const 48)))
        (call $init (local.get $handle) (i32.const 52)))
      (func (export "set") (param $context i32) (param $index i32) (param $record i32) (result i32)
        (call $set_input (local.get $context) (local.get $index) (local.get $record))))"""
    guest = Guest(module.encode(), models)
    assert guest.call("open", 0, 14, 0) == guest.call("open", 32, 11, 1) == 0
    assert [guest.call("set", 0, index, 64) for index in (0, 1, 2, 3, 4)] == [7] * 5
    assert guest.call("set", 1, 0, 104) == 7


def test_random_calls_never_break_the_host(models: dict[str, Model]) -> None:
    """Ten thousand calls with handles, indices, pointers and records that are near right, or not at all."""
    names = ("load", "load_by_name", "init", "set_input", "compute", "get_output")
    arity = dict(zip(names, (5, 3, 2, 3, 1, 5), strict=True))
    exports = "".join(
        f'(func (export "{name}") {"(param i32)" * arity[name]} (result i32) '
        f"(call ${name} {' '.join(f'(local.get {i})' for i in range(arity[name]))}))"
        for name in names
    )
    content = struct.pack("<4i", 1, 2, 3, 300)
    module = (
        f'(module {NN} (memory (export "memory") 1) {data(0, b"golden#session")} {tensor(4, (4,), content)} {exports})'
    )
    rng = np.random.default_rng(7)
    places = [0, 4, 64, 96, 128, 65532, 65533, 65536, -1, -4, 2**31 - 1, -(2**31)]
    counts = [0, 1, 2, 3, 4, 6, 14, 100, -1, 2**31 - 1]
    codes: set[int] = set()
    guest = Guest(module.encode(), models, limits=Limits(handles=4, seconds=60))
    assert guest.call("load_by_name", 0, 14, 32) == guest.call("init", 0, 36) == 0
    for _ in range(2500):
        name = names[rng.integers(len(names))]
        args = [int(rng.choice(places if rng.random() < 0.5 else counts)) for _ in range(arity[name])]
        codes.add(guest.call(name, *args))
    assert codes <= set(range(9))
    assert len(codes) >= 5
    assert guest.call("set_input", 0, 0, 64) in (0, 1)


# --- Absence, and the command ---


def test_without_wasmtime_the_advice_is_the_exact_command(tmp_path: Path) -> None:
    (tmp_path / "guest.wat").write_text("(module)")
    code = f"""
import sys
sys.modules["wasmtime"] = None
from smallhold.cli.main import main
sys.exit(main(["wasi", {str(tmp_path / "guest.wat")!r}, "--no-input"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "pip install 'smallhold[wasm]'" in done.stderr


def command(*words: object) -> int:
    return main(["wasi", "--no-input", *map(str, words)])


def test_the_command_verifies_a_bundle_before_a_guest_sees_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = json.loads((GOLDEN / "bundle" / "manifest.json").read_text())["name"] + "#session"
    module = f"""(module {NN}
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1) {data(0, name.encode())}
      (func (export "_start")
        (call $exit (call $load_by_name (i32.const 0) (i32.const {len(name)}) (i32.const 32)))))"""
    guest = tmp_path / "guest.wat"
    guest.write_text(module)
    trust = ["--trusted-keys", GOLDEN / "trusted_keys", "--backend", "reference"]
    assert command("--bundle", GOLDEN / "bundle", *trust, guest) == 0
    assert command(guest) == 8
    assert "no model" in capfd.readouterr().err
    shutil.copytree(GOLDEN / "bundle", tmp_path / "bundle")
    with (tmp_path / "bundle" / "gguf" / "trunk.gguf").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    assert command("--bundle", tmp_path / "bundle", *trust, guest) == 1
    assert "was altered" in capfd.readouterr().err
    (tmp_path / "nobody").mkdir()
    assert command("--bundle", GOLDEN / "bundle", "--trusted-keys", tmp_path / "nobody", guest) == 1
    assert "trust" in capfd.readouterr().err
    guest.write_bytes(LOOP)
    assert command("--seconds", "0.2", guest) == 1
    assert "still running after 0.2 s" in capfd.readouterr().err
