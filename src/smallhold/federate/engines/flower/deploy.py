"""A whole federation on this machine: SuperLink, SuperNodes, resident server and sites, all as processes.

TLS with a certificate of the deployment's own, every SuperNode authenticated by its key. Flower's programs come from an
environment of their own (its pins are strict); nothing of Flower is imported here. A process that ends is started
again; where Flower gives a run up, as it does when its SuperLink was killed, another run goes on in the same round.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smallhold.errors import MissingExtraError
from smallhold.federate.engines.deployment import Deployment
from smallhold.federate.engines.flower.app import write_connection
from smallhold.federate.engines.flower.credentials import make_credentials
from smallhold.federate.engines.flower.operator import Operator
from smallhold.federate.engines.processes import JobProcesses, Progress, free_port, is_open
from smallhold.federate.job import FederatedJob


class FlowerDeployment(Deployment):
    """SuperLink and SuperNodes beside the resident server and sites."""

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
        settings = {
            "FLWR_HOME": str(folder.resolve() / "flower" / "home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }
        super().__init__(
            JobProcesses(job, job_name, folder, data_dir, engine="flower", programs=programs, environment=settings)
        )

    def _start(self) -> None:
        keys, sites = self._folder / "keys", sorted(self._running.job.sites)
        make_credentials(keys, tuple(sites))
        port = free_port()
        self._operator = Operator(
            lambda *arguments: self._running.call("flwr", *arguments),
            self._folder / "app",
            self._running.socket("server"),
        )
        write_connection(self._folder / "home", port, keys / "ca.crt")
        certificate = ["--ssl-certfile", str(keys / "server.pem"), "--ssl-keyfile", str(keys / "server.key")]
        self._start_program(
            "superlink",
            "flower-superlink",
            *("--ssl-ca-certfile", str(keys / "ca.crt"), *certificate, "--enable-supernode-auth"),
            *("--disable-runtime-dependency-installation", "--database", str(self._folder / "state.db")),
            *("--host", "127.0.0.1", "--port", str(port)),
        )
        self._running.wait_until(lambda: is_open(port), "SuperLink to listen")
        for site in sites:
            self._operator.register(keys / f"{site}.pub")
            self._start_program(
                f"supernode-{site}",
                "flower-supernode",
                *("--root-certificates", str(keys / "ca.crt"), "--superlink", f"127.0.0.1:{port}"),
                *("--auth-supernode-private-key", str(keys / f"{site}.key")),
                *("--host", "127.0.0.1", "--port", str(free_port())),
                *("--node-config", f'socket="{self._running.socket(f"site-{site}")}"'),
            )

    def run(self, *, progress: Progress, deadline_seconds: float) -> dict[str, Any]:
        """See `Deployment`; the job begins when it is submitted."""
        self._running.wait_until(lambda: self._running.status() is not None, "the resident server")
        self._operator.submit()
        return super().run(progress=progress, deadline_seconds=deadline_seconds)

    def _tend(self, still_seconds: float) -> None:
        """Submit another run where Flower gave the last one up."""
        self._operator.tend(still_seconds)

    def _start_program(self, name: str, program: str, *arguments: str) -> None:
        self._running.start(name, [str(self._running.programs / program), *arguments])
