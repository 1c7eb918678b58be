"""What `bedside --rehearse` starts beside the ward: a broker on loopback, and the feed that plays patients into it."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from smallhold.errors import EndpointError

_START_SECONDS = 10.0
_STOP_SECONDS = 5.0


def start_broker(stack: ExitStack, folder: Path) -> str:
    """Start mosquitto on a free port of loopback; it ends with the stack.

    Returns:
        Its `mqtt://` address.

    Raises:
        EndpointError: mosquitto is not installed, or does not listen in time.
    """
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise EndpointError(
            "mosquitto, the MQTT broker, is not installed",
            hint="apt-get install mosquitto, or rehearse over HL7: --rehearse mllp",
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = folder / "mosquitto.conf"
    # Whatever the ward does not acknowledge at once waits in the broker; 0 = without limit.
    configuration.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n"
    )
    process = _start([program, "-c", str(configuration)], stack, folder / "mosquitto.log")
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return f"mqtt://127.0.0.1:{port}"
        time.sleep(0.05)
    raise EndpointError(f"mosquitto does not listen on 127.0.0.1:{port} after {_START_SECONDS:g} s")


def start_feed(stack: ExitStack, args: argparse.Namespace, to: str, folder: Path, *, part: tuple[int, int]) -> None:
    """Play the patients of `args` to an address, in a process of its own that ends with the stack.

    Args:
        stack: Ends it.
        args: `patients`, `speed`, `ward`, `data`, `split`, `simulated`.
        to: `mqtt://` or `mllp://`.
        folder: Gets `feed-N.log`, what it says.
        part: (which, of how many): the first, second, ... share of the patients.
    """
    words = [sys.executable, "-m", "smallhold.cli.main", "feed", "--to", to]
    words += ["--patients", str(args.patients), "--speed", f"{args.speed:g}", "--ward", args.ward]
    words += ["--split", args.split, "--part", f"{part[0]}/{part[1]}"]
    words += ["--simulated"] if args.simulated else []
    words += [] if args.data is None else ["--data", str(args.data)]
    _start(words, stack, folder / f"feed-{part[0]}.log")


def _start(words: list[str], stack: ExitStack, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as said:
        # A session of its own: Ctrl-C reaches the ward alone, which ends the others in order.
        process = subprocess.Popen(  # noqa: S603 - our own words, no shell
            words, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(_STOP_SECONDS)
