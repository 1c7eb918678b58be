"""Contestants as processes: started, asked with a deadline, their processor time and memory read from outside."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from bench.decide.workload import ROOT

#: A group of a slow contestant on a busy machine takes some ten seconds.
DEADLINE_SECONDS = 300.0
#: What contestants are started with beside our own environment.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}


class ContestantError(Exception):
    """A contestant could not start, ended, or kept us waiting."""


@dataclass(slots=True)
class Outcome:
    """What one or more groups of events gave.

    Attributes:
        cpu_seconds: Processor time of the contestant's process, all its threads.
        wall_ms: Of each event, as its caller waits.
        margins: Of each event: logit of the second choice above the first; infinite where a text says the choice alone.
    """

    cpu_seconds: float = 0.0
    wall_ms: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Take in another outcome."""
        self.cpu_seconds += other.cpu_seconds
        self.wall_ms += other.wall_ms
        self.margins += other.margins


class Process:
    """A process, which may answer lines on its standard output."""

    def __init__(self, command: Sequence[str | Path], *, log: Path, answers_lines: bool = True) -> None:
        self.name = " ".join(Path(word).name for word in command[:2])
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("wb") as errors:
                self._child = subprocess.Popen(  # noqa: S603 - one of the contestants
                    [str(word) for word in command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE if answers_lines else errors,
                    stderr=errors,
                    env=os.environ | ENVIRONMENT,
                )
        except OSError as error:
            raise ContestantError(f"{self.name} cannot be started: {error}") from error
        self.pid = self._child.pid
        self._stdin, self._stdout = cast(IO[bytes], self._child.stdin), cast(IO[bytes], self._child.stdout)
        self._unread = b""

    def tell(self, line: str) -> None:
        """Write a line.

        Raises:
            ContestantError: the process has ended.
        """
        try:
            self._stdin.write(line.encode() + b"\n")
            self._stdin.flush()
        except OSError as error:
            raise self.failure("ended") from error

    def hear(self, seconds: float = DEADLINE_SECONDS) -> Any:
        """The next line, as JSON.

        Raises:
            ContestantError: nothing came in time, the process ended, or it was no JSON.
        """
        until = time.monotonic() + seconds
        while b"\n" not in self._unread:
            if not select.select([self._stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                raise self.failure(f"gave no answer in {seconds:.0f} s")
            piece = os.read(self._stdout.fileno(), 1 << 20)
            if not piece:
                raise self.failure("ended")
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            return json.loads(line)
        except ValueError as error:
            raise self.failure(f"answered no JSON: {line[:80]!r}") from error

    def failure(self, what: str) -> ContestantError:
        """An error with the end of what the process wrote beside."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=1)
        said = self._log.read_bytes()[-600:].decode(errors="replace").strip()
        return ContestantError(f"{self.name} {what}, exit code {self._child.poll()}: {said or 'it wrote nothing'}")

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._child.poll() is None

    def stop(self) -> None:
        """End it."""
        self._child.kill()
        self._child.communicate(timeout=30)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far, all its threads, to the nanosecond; Linux alone."""
    return time.clock_gettime((~pid << 3) | 2)  # the process's own clock, as clock_getcpuclockid makes it


def settled_cpu_seconds(pid: int) -> float:
    """The same once it stands still for two milliseconds, so that work after an answer counts; a second at most."""
    before, until = cpu_seconds(pid), time.monotonic() + 1
    while time.monotonic() < until:
        time.sleep(0.002)
        now = cpu_seconds(pid)
        if now - before < 50e-6:
            return now
        before = now
    return before


def rss_mb(pid: int) -> float:
    """Most memory that a process had resident, pages of files that it maps included, in MB of 10^6 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ContestantError(f"process {pid}: no VmHWM in its status")
