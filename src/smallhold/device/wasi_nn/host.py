"""Run a guest: WASI without surprises, WASI-NN, and limits, in wasmtime.

A guest gets its arguments, its standard input, the directories that were granted, and the models that were offered. It
has no environment, no network and no way to wait. Whatever it does ends in an `Outcome` or a `GuestError`.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wasmtime

from smallhold.device.wasi_nn.calls import Calls
from smallhold.device.wasi_nn.limits import Limits
from smallhold.device.wasi_nn.memory import GuestMemory
from smallhold.device.wasi_nn.models import Model
from smallhold.device.wasi_nn.raw_functions import RawFunctions
from smallhold.errors import DeadlineError, GuestError, InputError

_WASI = "wasi_snapshot_preview1"
_NOT_SUPPORTED = 58  # errno of WASI
_EIO = 5
_MOST_TABLE_ELEMENTS = 100_000

Sink = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Grant:
    """A directory that a guest may use.

    Attributes:
        folder: Where it lies here.
        name: What the guest calls it.
        is_writable: Whether the guest may change files in it.
    """

    folder: Path
    name: str
    is_writable: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a guest ended by itself.

    Attributes:
        exit_code: Its own; 0 where it gave none.
        stdout: What it printed.
        stderr: What it complained.
        refusals: Why calls of WASI-NN were refused, the first twenty.
        fuel: Instructions, or 0 where they were not counted.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    refusals: tuple[str, ...]
    fuel: int


def run_guest(
    wasm: bytes,
    models: Mapping[str, Model],
    *,
    args: Sequence[str] = (),
    stdin: bytes = b"",
    grants: Sequence[Grant] = (),
    limits: Limits | None = None,
    stdout: Sink | None = None,
    stderr: Sink | None = None,
) -> Outcome:
    """Run a WASI program from its start to its end.

    Args:
        wasm: The module, binary or as text; it exports `_start`.
        models: What it may open, by name. Each comes from a bundle that was verified.
        args: Its arguments; the first is its own name.
        stdin: Its standard input, all of it.
        grants: Directories it may use.
        limits: What it may spend; default: `Limits()`.
        stdout: Gets what the guest prints as it is printed.
        stderr: The same for its complaints.

    Raises:
        GuestError: it is no such program, it broke off, or it went beyond a limit.
        InputError: a grant or an argument is impossible.
    """
    guest = Guest(wasm, models, args=args, stdin=stdin, grants=grants, limits=limits, stdout=stdout, stderr=stderr)
    code = guest.start()
    return Outcome(code, bytes(guest.stdout), bytes(guest.stderr), tuple(guest.calls.refusals), guest.fuel)


class Guest:
    """One instance of a module; not safe for use from two threads at once. Arguments as for `run_guest`."""

    def __init__(
        self,
        wasm: bytes,
        models: Mapping[str, Model],
        *,
        args: Sequence[str] = (),
        stdin: bytes = b"",
        grants: Sequence[Grant] = (),
        limits: Limits | None = None,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
    ) -> None:
        self.limits = limits or Limits()
        if len(wasm) > self.limits.module_bytes:
            raise GuestError(f"guest: expected at most {self.limits.module_bytes} bytes, got {len(wasm)}")
        self._engine = wasmtime.Engine(_config(self.limits))
        linker = wasmtime.Linker(self._engine)
        linker.allow_shadowing = True
        linker.define_wasi()
        i32 = wasmtime.ValType.i32
        # Sleeping and waiting happen in the host, where no limit reaches them.
        linker.define_func(
            _WASI, "poll_oneoff", wasmtime.FuncType([i32() for _ in range(4)], [i32()]), lambda *_: _NOT_SUPPORTED
        )
        self._functions = RawFunctions(linker, lambda name, error: self.calls.refused(name, error))
        self.calls = Calls(models, self.limits, GuestMemory(self._functions.memory))
        for where, name, arity, function in self.calls.functions():
            self._functions.define(where, name, arity, function)
        self.stdout, self.stderr = bytearray(), bytearray()
        self._failure: BaseException | None = None
        self._store = wasmtime.Store(self._engine)
        self._store.set_limits(
            memory_size=self.limits.memory_bytes,
            table_elements=_MOST_TABLE_ELEMENTS,
            instances=1,
            tables=8,
            memories=1,
        )
        self._store.set_wasi(self._wasi(args, stdin, grants, stdout, stderr))
        if self.limits.fuel:
            self._store.set_fuel(self.limits.fuel)
        try:
            module = wasmtime.Module(self._engine, wasm)
        except (wasmtime.WasmtimeError, ValueError) as error:
            raise GuestError(f"guest: not a WebAssembly module: {_brief(error)}") from error
        # A module may run code while it is instantiated.
        instance: wasmtime.Instance = self._within_limits(lambda: linker.instantiate(self._store, module))
        self._exports = instance.exports(self._store)

    @property
    def fuel(self) -> int:
        """Instructions so far; 0 where they are not counted."""
        return self.limits.fuel - self._store.get_fuel() if self.limits.fuel else 0

    def start(self) -> int:
        """Run `_start`; returns the guest's exit code.

        Raises:
            GuestError: see `run_guest`.
        """
        try:
            self.call("_start")
        except wasmtime.ExitTrap as stop:
            return stop.code
        return 0

    def call(self, name: str, *args: int | float) -> Any:
        """Call an exported function; returns its result.

        Raises:
            GuestError: there is none, it broke off, or it went beyond a limit.
        """
        function = self._exports.get(name)
        if not isinstance(function, wasmtime.Func):
            raise GuestError(f"guest: exports no function {name!r}")
        try:
            return self._within_limits(lambda: function(self._store, *args))
        except TypeError as error:
            raise GuestError(f"guest: {name!r} does not take {list(args)}: {error}") from error

    def memory(self, start: int, count: int) -> bytes:
        """A copy of a piece of the guest's memory.

        Raises:
            GuestError: there is no such piece.
        """
        memory = self._exports.get("memory")
        if not isinstance(memory, wasmtime.Memory) or not 0 <= start <= start + count <= memory.data_len(self._store):
            raise GuestError(f"guest: has no {count} bytes of memory at {start}")
        return bytes(memory.read(self._store, start, start + count))

    def _within_limits(self, enter: Callable[[], Any]) -> Any:
        """Enter the guest; whatever it does, come back within its time."""
        self._store.set_epoch_deadline(1)
        self.calls.deadline = time.monotonic() + self.limits.seconds
        timer = threading.Timer(self.limits.seconds, self._engine.increment_epoch)
        timer.daemon = True
        timer.start()
        try:
            result = enter()
        except wasmtime.ExitTrap:
            if self._failure is not None:
                raise self._failure from None
            raise
        except (wasmtime.WasmtimeError, wasmtime.Trap) as error:
            failure, self._functions.failure = self._functions.failure, None
            is_late = isinstance(failure, DeadlineError)
            failure = self._failure if failure is None or is_late else failure
            if failure is not None:
                raise failure from None
            raise self._explain(error, is_late=is_late) from error
        finally:
            timer.cancel()
        if self._failure is not None:
            raise self._failure
        return result

    def _explain(self, error: Exception, *, is_late: bool) -> GuestError:
        code = error.trap_code if isinstance(error, wasmtime.Trap) else None
        if is_late or code is wasmtime.TrapCode.INTERRUPT:
            return GuestError(f"guest: still running after {self.limits.seconds:g} s, stopped", hint="raise --seconds")
        if code is wasmtime.TrapCode.OUT_OF_FUEL:
            return GuestError(f"guest: used up {self.limits.fuel:,} units of fuel, stopped", hint="raise --fuel")
        return GuestError(f"guest: broke off: {_brief(error)}")

    def _wasi(
        self,
        args: Sequence[str],
        stdin: bytes,
        grants: Sequence[Grant],
        stdout: Sink | None,
        stderr: Sink | None,
    ) -> wasmtime.WasiConfig:
        wasi = wasmtime.WasiConfig()
        if any("\0" in word for word in args):
            raise InputError("guest's arguments: expected text without NUL")
        wasi.argv = list(args)
        if stdin:
            # A file never keeps a guest waiting; it is open before its name goes.
            with tempfile.NamedTemporaryFile(prefix="smallhold-stdin-") as file:
                file.write(stdin)
                file.flush()
                wasi.stdin_file = file.name
        wasi.stdout_custom = self._writer("standard output", self.stdout, stdout)
        wasi.stderr_custom = self._writer("standard error", self.stderr, stderr)
        for grant in grants:
            if not grant.folder.is_dir():
                raise InputError(f"grant {grant.folder}: expected a directory")
            wasi.preopen_dir(str(grant.folder.resolve()), grant.name, grant.is_writable)
        return wasi

    def _writer(self, name: str, kept: bytearray, sink: Sink | None) -> Callable[[bytes], int]:
        def write(data: bytes) -> int:
            # Called by a thread of wasmtime's, into which nothing may be raised.
            if len(kept) + len(data) > self.limits.output_bytes:
                excess = f"wrote more than {self.limits.output_bytes:,} bytes to {name}"
                self._failure = GuestError(f"guest: {excess}, stopped")
            elif self._failure is None:
                try:
                    if sink is not None:
                        sink(data)
                    kept.extend(data)
                    return len(data)
                except BaseException as error:
                    self._failure = error
            self._engine.increment_epoch()
            return -_EIO

        return write


def _config(limits: Limits) -> wasmtime.Config:
    config = wasmtime.Config()
    config.epoch_interruption = True
    config.consume_fuel = bool(limits.fuel)
    # `memory.py` keeps views; a memory that moved would leave them pointing at somebody else's bytes.
    config.memory_may_move = False
    config.memory_reservation = 2**32
    config.wasm_threads = False
    config.wasm_memory64 = False
    config.wasm_multi_memory = False
    return config


def _brief(error: Exception) -> str:
    """The cause at the end of wasmtime's report, without the addresses before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("0: ").removeprefix("1: ") if lines else type(error).__name__
