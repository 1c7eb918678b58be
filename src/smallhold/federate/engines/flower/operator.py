"""The operator of a deployment: lets nodes in, submits the job, and another run where Flower has given the last one up.

On one machine the deployment holds it (`deploy`). Between machines it is a process beside the SuperLink; the resident
server has the rounds, so that it may be started again at any time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smallhold.errors import FederationError
from smallhold.federate.engines.flower.app import CONNECTION, write_app, write_connection
from smallhold.federate.engines.processes import START_SECONDS, is_open
from smallhold.federate.resident import ask_patiently

_RUNNING = tuple(f'"status": "{state}' for state in ("pending", "starting", "running"))
# Flower needs half a minute to say that a run is dead.
_PATIENCE_SECONDS = 30.0
# To ask takes a process of seconds, on a busy machine of tens: not all the time of a long round.
_LOOK_SECONDS = 30.0
_POLL_SECONDS = 1.0

#: Runs `flwr` with some arguments to its end.
Call = Callable[..., "subprocess.CompletedProcess[str]"]


class Operator:
    """What has to be said to a SuperLink by whoever runs it.

    Args:
        call: Runs `flwr`.
        app: Folder of the app, written here.
        socket: Of the resident server.
    """

    def __init__(self, call: Call, app: Path, socket: Path) -> None:
        self._call, self._app, self._socket = call, app, socket
        self._submitted = self._looked = float("-inf")
        write_app(app, "smallhold.federate.engines.flower", {"socket": ""})

    def register(self, public: Path) -> None:
        """Let the owner of a key in; one that is in already stays.

        Raises:
            FederationError: the SuperLink is not there, or does not take it.
        """
        done = self._call("supernode", "register", str(public), CONNECTION)
        said = done.stdout + done.stderr
        if done.returncode != 0 and "already" not in said.lower():
            raise FederationError(f"flwr supernode register {public.name}: {said[-500:]}")

    def submit(self) -> None:
        """Begin a run.

        Raises:
            FederationError: the SuperLink is not there, or does not take it.
        """
        done = self._call("run", str(self._app), CONNECTION, "--run-config", f'socket="{self._socket}"')
        if done.returncode != 0:
            raise FederationError(f"flwr run: {(done.stdout + done.stderr)[-1000:]}")
        self._submitted = time.monotonic()

    def tend(self, still_seconds: float) -> None:
        """Begin another run where Flower gave the last one up; `still_seconds` ago something happened last."""
        now = time.monotonic()
        still = min(still_seconds, now - self._submitted)
        if still > _PATIENCE_SECONDS and now - self._looked > _LOOK_SECONDS:
            try:
                if not self.is_carried():
                    self.submit()
            except FederationError as error:  # the SuperLink may have ended in between: the next look tries again
                print(error, file=sys.stderr, flush=True)
            self._looked = time.monotonic()

    def is_carried(self) -> bool:
        """Whether Flower has a run that is not over."""
        done = self._call("ls", CONNECTION, "--format", "json")
        return done.returncode != 0 or any(status in done.stdout for status in _RUNNING)


def main() -> None:
    """Until all rounds are closed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", required=True, type=Path, help="folder of Flower's programs")
    parser.add_argument("--state", required=True, type=Path, help="folder of the app and of flwr's own files")
    parser.add_argument("--port", required=True, type=int, help="of the SuperLink, on loopback")
    parser.add_argument("--authority", required=True, type=Path, help="certificate of whoever signed the SuperLink's")
    parser.add_argument("--nodes", required=True, type=Path, help="folder of the public keys SITE.pub to let in")
    parser.add_argument("--socket", required=True, type=Path, help="of the resident server")
    args = parser.parse_args()
    environment = {**os.environ, "FLWR_HOME": str(args.state / "home")}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - Flower's program
            [str(args.programs / "flwr"), *arguments], env=environment, capture_output=True, text=True,
            timeout=START_SECONDS, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    write_connection(args.state / "home", args.port, args.authority)
    operator = Operator(call, args.state / "app", args.socket)
    _wait_for(args.port)
    _carry_on(operator, args.socket, args.nodes)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_open(port):
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {START_SECONDS:.0f} s for the SuperLink on port {port}")
        time.sleep(_POLL_SECONDS)


def _carry_on(operator: Operator, server: Path, nodes: Path) -> None:
    known: set[bytes] = set()
    status = _status(server)
    # Nothing has been submitted yet, or by an operator before this one: there is nothing to be patient with.
    moved, last = time.monotonic() - 2 * _PATIENCE_SECONDS, (status["round"], status["turn"])
    while not status["is_finished"]:
        for public in sorted(nodes.glob("*.pub")):  # a site may be let in at any time
            if (key := public.read_bytes()) not in known:
                operator.register(public)
                known.add(key)
                print(f"{public.stem} is let in", flush=True)
        operator.tend(time.monotonic() - moved)
        time.sleep(_POLL_SECONDS)
        status = _status(server)
        if (status["round"], status["turn"]) != last:
            moved, last = time.monotonic(), (status["round"], status["turn"])
    print(f"all {status['round']} rounds are closed, model {status['model'][:16]}", flush=True)


def _status(server: Path) -> dict[str, Any]:
    return ask_patiently(server, {"ask": "status"}, timeout_seconds=START_SECONDS)[0]


if __name__ == "__main__":
    main()
