"""Host functions without the checked wrapper of wasmtime's package, which costs nine microseconds a call; this, one.

A pass of a small model takes some hundred microseconds, so three wrapped calls would be a quarter of a decision. The
types of the arguments are checked when the guest is linked, against the signature given here.

Source: `wasmtime_func_unchecked_callback_t` in wasmtime's C interface (func.h, linker.h).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import wasmtime
from wasmtime import _ffi as ffi

_NO_FINALIZER = ctypes.cast(0, ctypes.CFUNCTYPE(None, ctypes.c_void_p))


class RawFunctions:
    """Functions of i32 arguments and one i32 result, for one linker.

    An exception that a function lets out stops the guest; it is kept in `failure`.

    Args:
        refused: Turns an exception into a result, or raises it again.
    """

    def __init__(self, linker: wasmtime.Linker, refused: Callable[[str, Exception], int]) -> None:
        self._linker, self._refused = linker, refused
        self._kept: list[Any] = []  # C holds no reference to its callbacks
        self.failure: BaseException | None = None
        self.caller: int | None = None

    def define(self, module: str, name: str, arity: int, function: Callable[[Any], int]) -> None:
        """Offer a function; it gets its arguments as 64-bit words, two an argument."""
        refused = self._refused

        def call(_environment: Any, caller: int, words: Any, _count: int) -> int:
            given = words.contents
            self.caller = caller
            try:
                try:
                    given[0] = function(given)
                except Exception as error:
                    given[0] = refused(name, error)
            except BaseException as error:  # nothing may pass through C; an interrupt of the keyboard comes here too
                self.failure = error
                return _new_trap()
            return 0

        words = ctypes.POINTER(ctypes.c_int64 * (2 * max(arity, 1)))
        kind = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p, words, ctypes.c_size_t)
        callback = kind(call)
        self._kept.append(callback)
        i32 = wasmtime.ValType.i32
        signature = wasmtime.FuncType([i32() for _ in range(arity)], [i32()])
        error = ffi.wasmtime_linker_define_func_unchecked(
            self._linker.ptr(),
            ctypes.create_string_buffer(module.encode()),
            len(module.encode()),
            ctypes.create_string_buffer(name.encode()),
            len(name.encode()),
            signature.ptr(),
            ctypes.cast(callback, ffi.wasmtime_func_unchecked_callback_t),
            None,
            _NO_FINALIZER,
        )
        if error:
            raise wasmtime.WasmtimeError._from_ptr(error)

    def memory(self) -> memoryview | None:
        """All of the calling guest's memory, without a copy; None where it exports none.

        Only while one of the functions runs. The view is good for as long as the memory does not move.
        """
        item = ffi.wasmtime_extern_t()
        name = b"memory"
        caller = ctypes.cast(self.caller or 0, ctypes.POINTER(ffi.wasmtime_caller_t))
        if not ffi.wasmtime_caller_export_get(caller, ctypes.create_string_buffer(name), len(name), ctypes.byref(item)):
            return None
        if int(item.kind) != ffi.WASMTIME_EXTERN_MEMORY.value:
            ffi.wasmtime_extern_delete(ctypes.byref(item))
            return None
        context = ffi.wasmtime_caller_context(caller)
        memory = ctypes.byref(item.of.memory)
        size = ffi.wasmtime_memory_data_size(context, memory)
        if not size:
            return memoryview(b"")
        start = ctypes.addressof(ffi.wasmtime_memory_data(context, memory).contents)
        return memoryview((ctypes.c_uint8 * size).from_address(start)).cast("B")


def _new_trap() -> int:
    message = b"stopped by the host"
    trap = ffi.wasmtime_trap_new(ctypes.create_string_buffer(message), len(message))
    return ctypes.cast(trap, ctypes.c_void_p).value or 0
