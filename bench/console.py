"""What the console costs: thirty patients at one reading a second each, everything on one core, pages looking on.

    python -m bench.console [--seconds 60] [--patients 30] [--viewers 3]

The ward, its model and the console are one process, pinned to one core; broker and feed are others. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil

from smallhold.assist.sources.address import parse_address
from smallhold.assist.sources.feed_sinks import MqttSink
from smallhold.assist.sources.intake import Reading
from smallhold.cli.main import main as smallhold
from smallhold.cli.rehearsal import start_broker

MODELS = Path(__file__).resolve().parent.parent / "models"
# Vital signs that a monitor sends, one a second in turn: middle, spread, unit.
SIGNALS = {
    "HR": (84.0, 6.0, "/min"),
    "RespRate": (17.0, 2.0, "/min"),
    "SaO2": (96.0, 1.0, "%"),
    "SysABP": (122.0, 8.0, "mm[Hg]"),
    "DiasABP": (68.0, 5.0, "mm[Hg]"),
    "Temp": (37.0, 0.2, "Cel"),
}
WARM_UP_SECONDS = 20


class Viewer(threading.Thread):
    """A page: follows the events, and counts them."""

    def __init__(self, client: httpx.Client, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.client, self.stop = client, stop
        self.events = self.bytes = 0

    def run(self) -> None:
        """Read until told to stop."""
        with self.client.stream("GET", "/api/events") as answer:
            for line in answer.iter_lines():
                self.events += line.startswith("data:")
                self.bytes += len(line) + 1
                if self.stop.is_set():
                    return


def measure(patients: int, seconds: float, viewers: int) -> dict[str, Any]:
    """Run it, and report."""
    names = [f"bed-{number + 1:02d}" for number in range(patients)]
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        home = Path(place)
        smallhold(["device", "--home", str(home), "init"])
        roster = home / "roster.toml"
        roster.write_text("format = 1\n" + "".join(f"[patients.{name}]\nage = 70\nsex = 'F'\n" for name in names))
        url = start_broker(stack, home)
        words = [
            sys.executable,
            "-m",
            "smallhold.cli.main",
            "console",
            "--home",
            str(home),
            "run",
            str(MODELS / "hospital"),
        ]
        words += ["--trusted-keys", str(MODELS / "trusted_keys"), "--roster", str(roster), "--mqtt", url]
        words += ["--demo-accounts", "--port", "0"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)  # noqa: S603
        stack.callback(server.kill)
        os.sched_setaffinity(server.pid, {0})
        said = ""
        while "engineer" not in said:
            said += server.stdout.readline()  # type: ignore[union-attr]
        page = re.search(r"http://\S+", said)[0]  # type: ignore[index]
        password = re.search(r"nurse +(\S+)", said)[1]  # type: ignore[index]
        client = httpx.Client(base_url=page, timeout=30, headers={"Origin": page.rstrip("/")})
        client.post("/api/session", json={"name": "nurse", "password": password}).raise_for_status()
        stop = threading.Event()
        looking = [
            Viewer(httpx.Client(base_url=page, cookies=client.cookies, timeout=30), stop) for _ in range(viewers)
        ]
        sink = MqttSink(parse_address(url), "icu")
        feed = threading.Thread(target=_feed, args=(sink, names, stop), daemon=True)
        feed.start()
        for viewer in looking:
            viewer.start()
        time.sleep(WARM_UP_SECONDS)
        process = psutil.Process(server.pid)
        begun, before, counted = time.monotonic(), process.cpu_times(), client.get("/api/status").json()
        answers = []
        while time.monotonic() - begun < seconds:
            asked = time.monotonic()
            client.get("/api/ward").raise_for_status()
            answers.append((time.monotonic() - asked) * 1e3)
            time.sleep(0.5)
        spent, after = time.monotonic() - begun, process.cpu_times()
        status = client.get("/api/status").json()
        result = {
            "patients": patients,
            "viewers": viewers,
            "seconds": round(spent, 1),
            "readings_a_second": round((status["accepted"] - counted["accepted"]) / spent, 2),
            "cpu_share_of_one_core": round((after.user + after.system - before.user - before.system) / spent, 4),
            "resident_mib": round(process.memory_info().rss / 2**20, 1),
            "step_ms": status["step_ms"],
            "ward_request_ms": {
                "p50": round(statistics.median(answers), 1),
                "p99": round(sorted(answers)[math.ceil(0.99 * len(answers)) - 1], 1),
            },
            "events_a_second_a_viewer": round(looking[0].events / (spent + WARM_UP_SECONDS), 2) if looking else None,
            "kilobytes_a_second_a_viewer": (
                round(looking[0].bytes / (spent + WARM_UP_SECONDS) / 1e3, 1) if looking else None
            ),
            "load_average": os.getloadavg()[0],
        }
        stop.set()
        feed.join(10)
        server.send_signal(signal.SIGTERM)
        server.wait(20)
    return result


def _feed(sink: MqttSink, names: list[str], stop: threading.Event) -> None:
    """One reading a second and patient, the patients spread over the second."""
    chance = random.Random(0)
    number, begun = 0, time.monotonic()
    codes = list(SIGNALS)
    while not stop.is_set():
        patient, second = names[number % len(names)], number // len(names)
        code = codes[second % len(codes)]
        middle, spread, unit = SIGNALS[code]
        value = round(middle + spread * chance.gauss(0, 0.5), 1)
        now = int(time.time() * 1e3)
        reading = Reading(
            id=f"{patient}-{number}", patient=patient, system="", code=code, value=value, unit=unit, t_measured_ms=now
        )
        sink.send([reading])
        number += 1
        time.sleep(max(0.0, begun + number / len(names) - time.monotonic()))
    sink.close(5)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--patients", type=int, default=30)
    parser.add_argument("--viewers", type=int, default=3)
    args = parser.parse_args()
    print(json.dumps(measure(args.patients, args.seconds, args.viewers), indent=2))


if __name__ == "__main__":
    main()
