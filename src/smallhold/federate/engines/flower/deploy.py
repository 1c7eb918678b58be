"""A whole federation on this machine: SuperLink, SuperNodes, resident server and sites, all as processes.

TLS with a certificate of the deployment's own, every SuperNode authenticated by its key. Flower's programs come from an
environment of their own (its pins are strict); nothing of Flower is imported here. A process that ends is started
again; where Flower gives a run up, as it does when its SuperLink was killed, another run goes on in the same round.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smallhold.device.durable_file import write_durably
from smallhold.errors import FederationError, MissingExtraError
from smallhold.federate.engines.flower.credentials import make_credentials
from smallhold.federate.job import FederatedJob
from smallhold.federate.resident import ask

#: (round, rounds in all).
Progress = Callable[[int, int], None]
_APP = """[project]
name = "smallhold-job"
version = "1.0.0"
license = { file = "LICENSE" }
dependencies = ["flwr>=1.41.0,<1.42"]

[tool.flwr.app]
publisher = "smallhold"
fab-format-version = 1
flwr-version-target = "1.41.0"

[tool.flwr.app.components]
serverapp = "smallhold_job.server_app:app"
clientapp = "smallhold_job.client_app:app"

[tool.flwr.app.config]
socket = ""
"""
_MODULE = "from smallhold.federate.engines.flower.{side} import app as _app\n\napp = _app\n"
_CONNECTION = "smallhold"
# SuperLink takes seconds to listen, tens of them on a busy machine.
_START_SECONDS = 180.0
_RESTARTS = 20
#: Environment variable that says to which process of which deployment another one belongs.
_MARK = "SMALLHOLD_DEPLOYMENT"


@dataclass(slots=True)
class _Process:
    """A program that has to run, and how it is started again."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    starts: int = 0
    running: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        self.starts += 1
        with self.log.open("ab") as output:
            self.running = subprocess.Popen(  # noqa: S603 - our own programs and Flower's
                self.command, env=self.environment, stdout=output, stderr=output, start_new_session=True
            )

    def stop(self) -> None:
        if self.running.poll() is None:
            self.running.terminate()
            try:
                self.running.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.running.kill()
                self.running.wait(timeout=10)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-1500:] if self.log.exists() else ""


class FlowerDeployment:
    """The processes of one job; a context manager that ends them all."""

    def __init__(self, job: FederatedJob, job_name: str, folder: Path, data_dir: Path | None, programs: Path) -> None:
        """Prepare; nothing runs yet.

        Args:
            job: What is carried out.
            job_name: How the command line finds it: a path or a shipped name.
            folder: Of the run: state of server and sites, keys, logs.
            data_dir: Where data sets lie, or None.
            programs: Folder of Flower's programs, `flwr` and `flower-superlink` among them.

        Raises:
            MissingExtraError: Flower is not there.
        """
        if not (programs / "flower-superlink").exists():
            missing = MissingExtraError("flwr", "flower", f"the Flower engine ({programs}/flower-superlink is missing)")
            missing.hint = "make flower, or --programs DIR: Flower's pins want an environment of their own"
            raise missing
        self._job, self._folder, self._programs = job, folder.resolve(), programs.resolve()
        self._job_name = str(Path(job_name).resolve()) if job_name.endswith(".toml") else job_name
        self._data = [] if data_dir is None else ["--data", str(data_dir.resolve())]
        self._stack = ExitStack()
        self.processes: dict[str, _Process] = {}

    def __enter__(self) -> FlowerDeployment:
        """Start everything up to the SuperNodes."""
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End every process, Flower's children too."""
        self._stack.close()

    def _start(self) -> None:
        _kill_marked(f"{self._folder}:")  # what a deployment that was itself killed has left
        keys = self._folder / "flower" / "keys"
        make_credentials(keys, tuple(sorted(self._job.sites)))
        # Sockets need short paths, and their folder is for this user alone.
        self._sockets = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sh-")))
        self._port = _free_port()
        self._make_app(keys)
        for site in sorted(self._job.sites):
            self._ours(f"site-{site}", "site", "--name", site, *self._data)
        self._ours("server", "server")
        certificate = ["--ssl-certfile", str(keys / "server.pem"), "--ssl-keyfile", str(keys / "server.key")]
        self._theirs(
            "superlink",
            "flower-superlink",
            *("--ssl-ca-certfile", str(keys / "ca.crt"), *certificate, "--enable-supernode-auth"),
            *("--disable-runtime-dependency-installation", "--database", str(self._folder / "flower" / "state.db")),
            *("--host", "127.0.0.1", "--port", str(self._port)),
        )
        self._wait_until(lambda: _is_open(self._port), "SuperLink to listen")
        for site in sorted(self._job.sites):
            self._register(keys / f"{site}.pub")
            self._theirs(
                f"supernode-{site}",
                "flower-supernode",
                *("--root-certificates", str(keys / "ca.crt"), "--superlink", f"127.0.0.1:{self._port}"),
                *("--auth-supernode-private-key", str(keys / f"{site}.key")),
                *("--host", "127.0.0.1", "--port", str(_free_port())),
                *("--node-config", f'socket="{self._socket(f"site-{site}")}"'),
            )

    def run(self, *, progress: Progress, deadline_seconds: float) -> dict[str, Any]:
        """Carry the job out; returns where it then stands.

        Raises:
            FederationError: not finished before the deadline, or a process ends again and again.
        """
        deadline = time.monotonic() + deadline_seconds
        self._wait_until(lambda: self._status() is not None, "the resident server")
        self._submit()
        moved, last = time.monotonic(), -1
        while True:
            for process in self.processes.values():
                if process.running.poll() is not None:
                    self._restart(process)
            status = self._status()
            if status is not None:
                if status["round"] != last:
                    moved, last = time.monotonic(), status["round"]
                    progress(last, self._job.rounds)
                if status["is_finished"]:
                    return status
            if time.monotonic() > deadline:
                raise FederationError(f"job {self._job.name}: not finished after {deadline_seconds:.0f} s")
            if time.monotonic() - moved > 30 and not self._is_carried():
                self._submit()
                moved = time.monotonic()
            time.sleep(0.5)

    def _ours(self, name: str, action: str, *more: str) -> None:
        command = [sys.executable, "-m", "smallhold.cli.main", "federate", action, self._job_name]
        self._begin(name, [*command, "--socket", str(self._socket(name)), "--out", str(self._folder), *more])

    def _theirs(self, name: str, program: str, *arguments: str) -> None:
        self._begin(name, [str(self._programs / program), *arguments])

    def _begin(self, name: str, command: list[str]) -> None:
        logs = self._folder / "flower" / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        environment = self._environment | {_MARK: f"{self._folder}:{name};"}
        process = _Process(name, command, environment, logs / f"{name}.log")
        process.start()
        self.processes[name] = process
        self._stack.callback(lambda: _end_family(process))

    def _restart(self, process: _Process) -> None:
        if process.starts > _RESTARTS:
            raise FederationError(f"{process.name} ended {process.starts} times; its last words:\n{process.tail()}")
        _end_family(process)
        process.start()

    @property
    def _environment(self) -> dict[str, str]:
        ours = {
            "FLWR_HOME": str(self._folder / "flower" / "home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PATH": f"{self._programs}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONUNBUFFERED": "1",
        }
        return {**os.environ, **ours}

    def _make_app(self, keys: Path) -> None:
        app = self._folder / "flower" / "app"
        (app / "smallhold_job").mkdir(parents=True, exist_ok=True)
        write_durably(app / "pyproject.toml", [_APP.encode()], mode=0o644)
        write_durably(app / "LICENSE", [b"Apache-2.0\n"], mode=0o644)
        write_durably(app / "smallhold_job" / "__init__.py", [b""], mode=0o644)
        for side in ("server_app", "client_app"):
            write_durably(app / "smallhold_job" / f"{side}.py", [_MODULE.format(side=side).encode()], mode=0o644)
        home = self._folder / "flower" / "home"
        home.mkdir(parents=True, exist_ok=True)
        connection = (
            f'[superlink]\ndefault = "{_CONNECTION}"\n\n[superlink.{_CONNECTION}]\n'
            f'address = "127.0.0.1:{self._port}"\nroot-certificates = "{keys / "ca.crt"}"\n'
        )
        write_durably(home / "config.toml", [connection.encode()])

    def _register(self, public: Path) -> None:
        done = self._flwr("supernode", "register", str(public), _CONNECTION)
        said = done.stdout + done.stderr
        if done.returncode != 0 and "already" not in said.lower():
            raise FederationError(f"flwr supernode register {public.name}: {said[-500:]}")

    def _submit(self) -> None:
        setting = f'socket="{self._socket("server")}"'
        done = self._flwr("run", str(self._folder / "flower" / "app"), _CONNECTION, "--run-config", setting)
        if done.returncode != 0:
            raise FederationError(f"flwr run: {(done.stdout + done.stderr)[-1000:]}")

    def _is_carried(self) -> bool:
        """Whether Flower has a run that is not over."""
        done = self._flwr("ls", _CONNECTION, "--format", "json")
        return done.returncode != 0 or any(
            f'"status": "{state}' in done.stdout for state in ("pending", "starting", "running")
        )

    def _flwr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self._programs / "flwr"), *arguments]
        return subprocess.run(  # noqa: S603 - Flower's program
            command, env=self._environment, capture_output=True, text=True, timeout=_START_SECONDS, check=False
        )

    def _status(self) -> dict[str, Any] | None:
        try:
            return ask(self._socket("server"), {"ask": "status"}, timeout_seconds=10.0)[0]
        except OSError:
            return None

    def _socket(self, name: str) -> Path:
        return self._sockets / name

    def _wait_until(self, is_so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not is_so():
            for process in self.processes.values():
                if process.running.poll() is not None:
                    raise FederationError(f"{process.name} ended; its last words:\n{process.tail()}")
            if time.monotonic() > deadline:
                raise FederationError(f"waited {_START_SECONDS:.0f} s for {what}")
            time.sleep(0.2)


def _end_family(process: _Process) -> None:
    """End a process and whatever it has started, also what its own death has orphaned.

    Flower's SuperExec leaves its parent's session and outlives a parent that was killed: it would take the work of the
    next SuperLink and fail at it, for want of a standard output. All of them inherit the mark in the environment.
    """
    process.stop()
    with suppress(ProcessLookupError):
        os.killpg(process.running.pid, signal.SIGKILL)
    _kill_marked(process.environment[_MARK])


def _kill_marked(mark: str) -> None:
    """Kill every process of this user whose mark is, or begins with, this one."""
    wanted = f"{_MARK}={mark}".encode()
    for entry in Path("/proc").glob("[0-9]*"):  # elsewhere than on Linux there is none, and the session has to do
        with suppress(OSError):
            words = (entry / "environ").read_bytes().split(b"\0")
            if int(entry.name) != os.getpid() and any(word.startswith(wanted) for word in words):
                os.kill(int(entry.name), signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
