"""What the deployments of all engines do alike: start, be carried out, end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import Any, Self

from smallhold.federate.engines.processes import JobProcesses, Process, Progress


class Deployment(ABC):
    """The processes of one job on one engine; a context manager that ends them all, the engine's children too.

    Args:
        running: Its processes, none of them started yet.
    """

    def __init__(self, running: JobProcesses) -> None:
        self._running, self._folder = running, running.engine_folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start everything."""
        with ExitStack() as stack:
            stack.enter_context(self._running)
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End every process."""
        self._stack.close()

    @property
    def processes(self) -> dict[str, Process]:
        """What runs, by name."""
        return self._running.by_name

    def run(self, *, progress: Progress, deadline_seconds: float) -> dict[str, Any]:
        """Carry the job out; returns where it then stands.

        Raises:
            FederationError: not finished before the deadline, too few sites can answer, or a process ends again and
                again.
        """
        return self._running.carry_out(tend=self._tend, progress=progress, deadline_seconds=deadline_seconds)

    @abstractmethod
    def _start(self) -> None:
        """Start the engine's programs; the resident server and sites run already."""

    @abstractmethod
    def _tend(self, still_seconds: float) -> None:
        """Look after the engine, twice a second; `still_seconds` ago a round or one of its turns was closed last."""
