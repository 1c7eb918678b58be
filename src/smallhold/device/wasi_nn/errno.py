"""Error codes of the ABI, and a call that is answered with one.

Source: `nn_errno` in wasi-nn.witx, https://github.com/WebAssembly/wasi-nn.
"""

from __future__ import annotations

from enum import IntEnum


class Errno(IntEnum):
    """What a call of the guest comes back with."""

    SUCCESS = 0
    INVALID_ARGUMENT = 1
    INVALID_ENCODING = 2
    MISSING_MEMORY = 3
    BUSY = 4
    RUNTIME_ERROR = 5
    UNSUPPORTED_OPERATION = 6
    TOO_LARGE = 7
    NOT_FOUND = 8


class Refusal(Exception):  # noqa: N818 - the guest's mistake, answered with a code and never raised further
    """A call that is refused; the guest gets the code, the host's log the reason."""

    def __init__(self, errno: Errno, reason: str) -> None:
        super().__init__(reason)
        self.errno = errno
