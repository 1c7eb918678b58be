"""A text file of readings, line by line, to its end or followed while it grows."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from smallhold.assist.sources.inbox import Inbox
from smallhold.assist.sources.intake import Intake, Reading
from smallhold.assist.sources.source import SourceStatus
from smallhold.assist.sources.strict_json import MalformedError
from smallhold.errors import InputError

#: Reads one line after the other of one file: the readings in it, and for what is passed over the reason.
ReadLine = Callable[[bytes], Iterable[Reading | str]]
_POLL_SECONDS = 0.1


class LineFile:
    """Reads one file; a file can wait, so that nothing of it is lost to overload while it is the only source.

    A file that is followed may be cut or replaced: it is then read from its beginning, and repetitions are known by
    their id. `is_connected` is true while the file is being read, and false at the end of one that is not followed.

    Args:
        path: The file.
        intake: Where readings go.
        open_reader: Makes what reads the lines of a file from its first one on; it raises `MalformedError`.
        follow: Wait for more at the end.
        max_line_bytes: A longer line is counted as malformed and skipped.
        has_header: Whether a wrong first line makes the whole file unreadable.
    """

    def __init__(
        self,
        path: Path,
        intake: Intake,
        open_reader: Callable[[], ReadLine],
        *,
        follow: bool,
        max_line_bytes: int,
        has_header: bool,
    ) -> None:
        self._path = path
        self._intake = intake
        self._open_reader = open_reader
        self._follow = follow
        self._max_line_bytes = max_line_bytes
        self._has_header = has_header
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"source-{intake.name}", daemon=True)

    def start(self, inbox: Inbox) -> None:
        """Begin to read.

        Raises:
            InputError: the file is missing or its header is wrong.
        """
        try:
            with self._path.open("rb") as file:
                header = file.readline(self._max_line_bytes)
            if self._has_header and (header or not self._follow):
                self._open_reader()(header)
        except OSError as error:
            raise InputError(f"{self._path}: {error.strerror}") from error
        except MalformedError as error:
            raise InputError(f"{self._path}, line 1: {error}") from error
        self._intake.open(inbox)
        self._thread.start()

    def stop(self, deadline_seconds: float) -> None:
        """Stop reading."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(max(deadline_seconds, 0))

    def wait(self, deadline_seconds: float) -> bool:
        """Whether a file that is not followed was read to its end within that time."""
        self._thread.join(deadline_seconds)
        return not self._thread.is_alive()

    def status(self) -> SourceStatus:
        """How it is doing."""
        return self._intake.status()

    def _run(self) -> None:
        is_again = True
        while is_again and not self._stop.is_set():
            try:
                with self._path.open("rb") as file:
                    self._intake.connected(True)
                    self._read(file)
            except OSError as error:
                self._intake.failed(f"{self._path}: {error.strerror}")
                self._stop.wait(_POLL_SECONDS)
            self._intake.connected(False)
            is_again = self._follow

    def _read(self, file: BinaryIO) -> None:
        read_line = self._open_reader()
        for number, line in enumerate(self._lines(file), start=1):
            try:
                if line is None:
                    raise MalformedError(f"expected at most {self._max_line_bytes} bytes")
                items = read_line(line) if line.strip() else ()
            except MalformedError as error:
                self._intake.refuse("malformed", f"{self._path}, line {number}: {error}")
                if number == 1 and self._has_header:
                    self._stop.wait(_POLL_SECONDS)
                    return
                continue
            for item in items:
                self._offer(item)

    def _offer(self, item: Reading | str) -> None:
        if isinstance(item, str):
            self._intake.pass_over(item)
            return
        while not self._intake.has_room(item) and not self._stop.wait(0.005):
            pass
        if not self._stop.is_set():
            self._intake.offer(item)

    def _lines(self, file: BinaryIO) -> Iterator[bytes | None]:
        """Whole lines; None for one that is too long."""
        pending, is_too_long = b"", False
        while not self._stop.is_set():
            part = file.readline(self._max_line_bytes + 1)
            if not part:
                if not self._follow:
                    if pending or is_too_long:
                        yield None if is_too_long else pending
                    return
                if self._was_replaced(file):
                    return
                self._stop.wait(_POLL_SECONDS)
                continue
            is_too_long = is_too_long or len(pending) + len(part) > self._max_line_bytes + 1
            pending = b"" if is_too_long else pending + part
            if part.endswith(b"\n"):
                yield None if is_too_long else pending
                pending, is_too_long = b"", False

    def _was_replaced(self, file: BinaryIO) -> bool:
        opened = os.fstat(file.fileno())
        try:
            present = self._path.stat()
        except FileNotFoundError:
            return False  # between the two steps of a rotation
        return (present.st_ino, present.st_dev) != (opened.st_ino, opened.st_dev) or present.st_size < file.tell()
