"""Thirty beds at one reading a second each, beside a process that takes all the CPU it gets.

    make bench-bedside                  # ten minutes; BENCH_FLAGS="--seconds 60 --simulated"

Starts mosquitto, the feed and the ward as a user would (`smallhold bedside --rehearse mqtt`), a hog, and reads from the
ward's own account: floor alarm from the device's time stamp and from arrival, decision from the end of the bin, look-up
of the policy, memory, and whether every reading that was sent is on record. Stolen time of the machine is told: above
1 % the figures say more about the machine's neighbours than about the ward. Writes runs/bench-bedside/result.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from smallhold.device.durable_file import write_durably
from smallhold.device.home import Home, init

ROOT = Path(__file__).parents[1]
OUT = ROOT / "runs/bench-bedside"
#: Recorded stays have about 9 readings an hour and patient: at this speed thirty patients give thirty a second.
SPEED = 400
TARGETS = {"sent_to_alarm_ms": 50, "decision_ms": 150, "policy_us": 100}


def main() -> int:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--hogs", type=int, default=1)
    parser.add_argument("--speed", type=float, default=SPEED)
    parser.add_argument("--simulated", action="store_true")
    args = parser.parse_args()
    shutil.rmtree(OUT / "home", ignore_errors=True)
    home = Home(OUT / "home")
    home.path.parent.mkdir(parents=True, exist_ok=True)
    init(home)
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(args.hogs)]
    try:
        result = measure(args, home)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    OUT.mkdir(parents=True, exist_ok=True)
    write_durably(OUT / "result.json", [json.dumps(result, indent=1).encode()], mode=0o644)
    print(json.dumps(result, indent=1))
    return 0


def measure(args: argparse.Namespace, home: Home) -> dict[str, object]:
    """The ward's account of itself, with what only an onlooker sees."""
    words = [
        sys.executable, "-m", "smallhold.cli.main", "bedside", "models/hospital", "--trusted-keys",
        "models/trusted_keys", "--home", str(home.path), "--rehearse", "mqtt", "--speed", str(args.speed),
        "--seconds", str(args.seconds), "--plain", "--json",
    ]  # fmt: skip
    words += ["--simulated"] if args.simulated else []
    stolen = _steal()
    begun = time.monotonic()
    ward = subprocess.Popen(  # noqa: S603 - our own words, no shell
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    most_rss = 0
    cpu_seconds = 0.0

    def watch() -> None:
        nonlocal most_rss, cpu_seconds
        process = psutil.Process(ward.pid)
        while ward.poll() is None:
            try:
                most_rss = max(most_rss, process.memory_info().rss)
                cpu_seconds = sum(process.cpu_times()[:2])
            except psutil.Error:
                return
            time.sleep(0.5)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    out, _ = ward.communicate(timeout=args.seconds + 300)
    watcher.join(2)
    told = json.loads(out)
    seconds = time.monotonic() - begun
    feed = (home.path / "feed-1.log").read_text()
    sent = re.search(r"^(\d[\d,]*) readings of", feed, re.M)
    num_sent = int(sent[1].replace(",", "")) if sent else None
    mqtt = next(source for source in told["sources"] if source["name"] == "mqtt")
    stolen_share = (_steal() - stolen) / (seconds * (os.cpu_count() or 1))
    names = (
        "readings", "accepted", "refused", "decisions", "model_failures", "alerts", "unjournalled", "dropped",
        "alarm_ms", "sent_to_alarm_ms", "decision_ms", "model_alarm_ms", "step_ms", "policy_us", "is_simulated",
    )  # fmt: skip
    return {
        **{name: told[name] for name in names},
        "sent": num_sent,
        "arrived": mqtt["received"],
        "lost": None if num_sent is None else max(0, num_sent - told["readings"]),
        "readings_per_second": round(told["readings"] / args.seconds, 1),
        "rss_mb": round(most_rss / 1e6, 1),
        "cpu_share_of_one_core": round(cpu_seconds / args.seconds, 3),
        "stolen_share": round(stolen_share, 4),
        "hogs": args.hogs,
        "seconds": args.seconds,
        "met": {name: told[name]["p99"] is not None and told[name]["p99"] <= most for name, most in TARGETS.items()},
    }


def _steal() -> float:
    """Seconds of all processors that the hypervisor gave to others, since the machine started."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


if __name__ == "__main__":
    raise SystemExit(main())
