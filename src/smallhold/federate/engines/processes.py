"""The processes of one job on this machine: resident server and sites, and an engine's programs beside them.

What ends is started again, with everything it had started; all of them end with the context. Which process belongs to
which job is written in its environment, so that nothing outlives a deployment that was itself killed: the next one in
the same folder ends it first.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smallhold.errors import FederationError
from smallhold.federate.job import FederatedJob
from smallhold.federate.resident import ask

#: (round, rounds in all).
Progress = Callable[[int, int], None]
#: An engine's program takes seconds to start, tens of them on a busy machine.
START_SECONDS = 180.0
# Ends in a row, each soon after its start, before a deployment gives up. With the waits that is some five minutes: a
# SuperLink refuses a SuperNode whose predecessor was killed for as long as it waits for that one: over a minute.
_RESTARTS = 20
_SOON_SECONDS, _LONGEST_WAIT_SECONDS = 60.0, 15.0
#: Environment variable that says to which process of which deployment another one belongs.
_MARK = "SMALLHOLD_DEPLOYMENT"


@dataclass(slots=True)
class Process:
    """A program that has to run, and how it is started again."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    starts: int = 0
    ends: int = 0  # in a row, each soon after its start
    started: float = 0.0
    due: float | None = None  # when it is to be started again
    running: subprocess.Popen[bytes] = field(init=False)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.running.poll() is not None

    def start(self) -> None:
        """Start it, once more."""
        self.starts += 1
        self.started, self.due = time.monotonic(), None
        with self.log.open("ab") as output:
            self.running = subprocess.Popen(  # noqa: S603 - our own programs and an engine's
                self.command, env=self.environment, stdout=output, stderr=output, start_new_session=True
            )

    def is_due(self, now: float) -> bool:
        """Whether it has ended and is to be started again: at once, then later each time that it ended soon.

        Args:
            now: Monotonic, seconds.

        Raises:
            FederationError: it ends again and again.
        """
        if not self.is_over:
            return False
        if self.due is None:
            self.ends = 1 if now - self.started > _SOON_SECONDS else self.ends + 1
            if self.ends > _RESTARTS:
                raise FederationError(f"{self.name} ended {self.ends} times in a row; its last words:\n{self.tail()}")
            wait = 0.0 if self.ends == 1 else min(2.0 ** (self.ends - 2), _LONGEST_WAIT_SECONDS)
            self.due = now + wait
        return now >= self.due

    def end_family(self) -> None:
        """End it and whatever it has started, also what its own death has orphaned.

        An engine's children may leave their parent's session and outlive a parent that was killed: they would take the
        work of the next one. All of them inherit the mark in the environment.
        """
        if not self.is_over:
            self.running.terminate()
            try:
                self.running.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.running.kill()
                self.running.wait(timeout=10)
        with suppress(ProcessLookupError):
            os.killpg(self.running.pid, signal.SIGKILL)
        _kill_marked(self.environment[_MARK])

    def tail(self) -> str:
        """Its last words."""
        return self.log.read_text(errors="replace")[-1500:] if self.log.exists() else ""


class JobProcesses:
    """A job's processes by name; a context manager that ends them all."""

    def __init__(
        self,
        job: FederatedJob,
        job_name: str,
        folder: Path,
        data_dir: Path | None,
        *,
        engine: str,
        programs: Path,
        environment: Mapping[str, str],
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            job: What is carried out.
            job_name: How the command line finds it: a path or a shipped name.
            folder: Of the run: state of server and sites, and in `ENGINE/` the engine's, with the logs of all.
            data_dir: Where data sets lie, or None.
            engine: Its name.
            programs: Folder of the engine's programs; they find each other there.
            environment: Variables that all processes get.
        """
        self.job, self.folder, self.programs = job, folder.resolve(), programs.resolve()
        self.engine_folder = self.folder / engine
        self._job_name = str(Path(job_name).resolve()) if job_name.endswith(".toml") else job_name
        self._data = [] if data_dir is None else ["--data", str(data_dir.resolve())]
        path = f"{self.programs}{os.pathsep}{os.environ.get('PATH', '')}"
        self.environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", **environment}
        self._stack = ExitStack()
        self.by_name: dict[str, Process] = {}

    def __enter__(self) -> JobProcesses:
        """Start the resident server and the resident sites."""
        _kill_marked(f"{self.folder}:")
        try:
            # Sockets need short paths, and their folder is for this user alone.
            self.sockets = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sh-")))
            for site in sorted(self.job.sites):
                self._start_resident(f"site-{site}", "site", "--name", site, *self._data)
            self._start_resident("server", "server")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End every process, the engine's children too."""
        self._stack.close()

    def start(self, name: str, command: list[str], **environment: str) -> None:
        """Start a program that has to run for as long as the job does."""
        logs = self.engine_folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        mark = {_MARK: f"{self.folder}:{name};"}
        process = Process(name, command, self.environment | environment | mark, logs / f"{name}.log")
        process.start()
        self.by_name[name] = process
        self._stack.callback(process.end_family)

    def restart(self, process: Process) -> None:
        """Start a program again, with all that it had started."""
        process.end_family()
        process.start()

    def call(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of the engine's programs to its end."""
        command = [str(self.programs / program), *arguments]
        return subprocess.run(  # noqa: S603 - the engine's program
            command, env=self.environment, capture_output=True, text=True, timeout=START_SECONDS, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def carry_out(
        self, *, tend: Callable[[float], None], progress: Progress, deadline_seconds: float
    ) -> dict[str, Any]:
        """Keep everything running until the job is finished; returns where it then stands.

        Args:
            tend: What the engine has to look after, called twice a second with the seconds since the last round closed.
            progress: Called when a round was closed.
            deadline_seconds: For the whole job.

        Raises:
            FederationError: not finished before the deadline, or a process ends again and again.
        """
        deadline = time.monotonic() + deadline_seconds
        moved, last = time.monotonic(), (-1, -1)
        while True:
            status = self.status()
            if status is not None:
                if (status["round"], status["turn"]) != last:
                    if status["round"] != last[0]:
                        progress(status["round"], self.job.rounds)
                    moved, last = time.monotonic(), (status["round"], status["turn"])
                if status["is_finished"]:
                    return status
            for process in self.by_name.values():
                if process.is_due(time.monotonic()):
                    self.restart(process)
            if time.monotonic() > deadline:
                raise FederationError(f"job {self.job.name}: not finished after {deadline_seconds:.0f} s")
            tend(time.monotonic() - moved)
            time.sleep(0.5)

    def status(self) -> dict[str, Any] | None:
        """Where the job stands; None while the resident server is not there."""
        try:
            return ask(self.socket("server"), {"ask": "status"}, timeout_seconds=10.0)[0]
        except OSError:
            return None

    def socket(self, name: str) -> Path:
        """Of a resident process, by the name of the process."""
        return self.sockets / name

    def wait_until(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait for the start of something.

        Raises:
            FederationError: a process ended, or the time is over.
        """
        deadline = time.monotonic() + START_SECONDS
        while not is_so():
            for process in self.by_name.values():
                if process.is_over:
                    raise FederationError(f"{process.name} ended; its last words:\n{process.tail()}")
            if time.monotonic() > deadline:
                raise FederationError(f"waited {START_SECONDS:.0f} s for {what}")
            time.sleep(0.2)

    def _start_resident(self, name: str, action: str, *more: str) -> None:
        command = [sys.executable, "-m", "smallhold.cli.main", "federate", action, self._job_name]
        self.start(name, [*command, "--socket", str(self.socket(name)), "--out", str(self.folder), *more])


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_open(port: int) -> bool:
    """Whether somebody listens on a port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _kill_marked(mark: str) -> None:
    """Kill every process of this user whose mark is, or begins with, this one."""
    wanted = f"{_MARK}={mark}".encode()
    for entry in Path("/proc").glob("[0-9]*"):  # elsewhere than on Linux there is none, and the session has to do
        with suppress(OSError):
            words = (entry / "environ").read_bytes().split(b"\0")
            if int(entry.name) != os.getpid() and any(word.startswith(wanted) for word in words):
                os.kill(int(entry.name), signal.SIGKILL)
