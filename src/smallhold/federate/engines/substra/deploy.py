"""A federation on Substra's local backend: resident server and sites, and the process that plans the tasks.

Substra comes from an environment of its own; nothing of it is imported here. A process that ends is started again, and
a new plan goes on in the round in which the resident server is.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

from smallhold.errors import FederationError, MissingExtraError
from smallhold.federate.engines.deployment import Deployment
from smallhold.federate.engines.processes import START_SECONDS, JobProcesses, Progress
from smallhold.federate.engines.substra.record import REFUSAL
from smallhold.federate.job import FederatedJob


class SubstraDeployment(Deployment):
    """The process that plans the tasks beside the resident server and sites."""

    def __init__(
        self,
        job: FederatedJob,
        job_name: str,
        folder: Path,
        data_dir: Path | None,
        programs: Path,
        *,
        mode: str = "subprocess",
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            job: What is carried out.
            job_name: How the command line finds it: a path or a shipped name.
            folder: Of the run: state of server and sites, Substra's files and record, logs.
            data_dir: Where data sets lie, or None.
            programs: Folder of the `python` that has Substra.
            mode: `subprocess` carries each task out in a process of its own, `memory` all in one.

        Raises:
            MissingExtraError: Substra is not there.
        """
        if not _has_substra(programs / "python"):
            missing = MissingExtraError(
                "substra", "substra", f"the Substra engine ({programs}/python does not have it)"
            )
            missing.hint = "make substra, or --programs DIR: Substra lives in an environment of its own"
            raise missing
        # A configuration of another deployment, with its addresses, is not ours.
        settings = {"SUBSTRA_CLIENTS_CONFIGURATION_FILE_PATH": "", "TQDM_DISABLE": "1"}
        super().__init__(
            JobProcesses(job, job_name, folder, data_dir, engine="substra", programs=programs, environment=settings)
        )
        self._mode = mode

    def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / REFUSAL).unlink(missing_ok=True)
        sites = [word for site in sorted(self._running.job.sites) for word in ("--site", site)]
        driver = [str(self._running.programs / "python"), "-m", "smallhold.federate.engines.substra.driver"]
        self._running.start(
            "driver",
            [*driver, "--folder", str(self._folder), "--mode", self._mode, *sites],
            SMALLHOLD_SOCKETS=str(self._running.sockets),
        )

    def run(self, *, progress: Progress, deadline_seconds: float) -> dict[str, Any]:
        """See `Deployment`; ends when the record is written."""
        status = super().run(progress=progress, deadline_seconds=deadline_seconds)
        deadline = time.monotonic() + START_SECONDS
        while not self.processes["driver"].is_over and time.monotonic() < deadline:  # it writes the last round down
            time.sleep(0.1)
        return status

    def _tend(self, still_seconds: float) -> None:
        """Notice that the driver has given up: to start it again would end the same way."""
        del still_seconds
        path = self._folder / REFUSAL
        if path.exists():
            tail = self.processes["driver"].tail()
            raise FederationError(f"job {self._running.job.name} on Substra: {path.read_text()}\n{tail}")


def _has_substra(python: Path) -> bool:
    if not python.exists():
        return False
    command = [str(python), "-c", "import substra, substratools"]
    return subprocess.run(command, capture_output=True, timeout=START_SECONDS, check=False).returncode == 0  # noqa: S603
