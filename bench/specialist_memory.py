"""What n specialists beside every bed cost: memory of the process and time of a decision.

One base is loaded once; every patient has one session a task. Run on a bundle with specialists:
`python bench/specialist_memory.py BUNDLE --trusted-keys DIR`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import quantiles

from smallhold.assist.local_specialist import LocalSpecialist
from smallhold.assist.ward import Specialists, describe_reading
from smallhold.decide.local import LocalTask, open_bundle
from smallhold.records import Provenance
from smallhold.sectors.hospital.icu_risk import static_features
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.simulator import simulate_ward
from smallhold.sectors.hospital.stays import Stay

_PROVENANCE = Provenance(trace_id="0" * 32, clock="stay", simulated=True)


def main() -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--trusted-keys", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=30)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--specialists", type=int, default=3)
    args = parser.parse_args()
    stays = simulate_ward(args.patients, 0, args.hours)
    rows = []
    before = resident_bytes()
    bundle = open_bundle(args.bundle, trusted_keys=args.trusted_keys)
    general = bundle.signal_task("icu-risk")
    loaded = resident_bytes()
    specialists = Specialists.of(general)
    names = sorted(specialists.tasks)
    # A bundle may hold fewer specialists than a bed may have: each is loaded again as one of its own, encoder and all.
    watching = [general, *(bundle.signal_task(names[i % len(names)]) for i in range(args.specialists))]
    with_encoders = resident_bytes()
    for count in range(1, len(watching) + 1):
        sessions = [
            [
                LocalSpecialist(stay.record_id, task, static_features(stay), describe_reading)
                for task in watching[:count]
            ]
            for stay in stays
        ]
        latencies = []
        for hour in range(1, args.hours + 1):
            for stay, mine in zip(stays, sessions, strict=True):
                here = (stay.minute <= 60 * hour) & (stay.minute > 60 * (hour - 1))
                for session in mine:
                    for code, value in zip(stay.code[here].tolist(), stay.value[here].tolist(), strict=True):
                        session.observe(PARAMETERS[code].name, value, 60_000 * 60 * hour)
                    begun = time.perf_counter()
                    session.close_bin(3_600_000 * hour)
                    session.decide(3_600_000 * hour, _PROVENANCE)
                    latencies.append((time.perf_counter() - begun) * 1e3)
        cuts = quantiles(latencies, n=100, method="inclusive")
        kept = [session._session().state_bytes for mine in sessions for session in mine]
        rows.append(
            {
                "sessions_a_patient": count,
                "sessions": count * args.patients,
                "resident_mb": round(resident_bytes() / 1e6, 1),
                "session_kb": round(sum(kept) / len(kept) / 1e3),
                "decision_ms_p50": round(cuts[49], 2),
                "decision_ms_p99": round(cuts[98], 2),
            }
        )
        del sessions
    result = {
        "bundle": f"{bundle.manifest.name} {bundle.manifest.version}",
        "patients": args.patients,
        "hours": args.hours,
        "python_mb": round(before / 1e6, 1),
        "base_mb": round((loaded - before) / 1e6, 1),
        "encoders_mb": round((with_encoders - loaded) / 1e6, 1),
        "tasks": [task.task.name for task in watching],
        "rows": rows,
    }
    print(json.dumps(result, indent=1))
    return 0


def _session(stay: Stay, task: LocalTask) -> LocalSpecialist:
    return LocalSpecialist(stay.record_id, task, static_features(stay), describe_reading)


def resident_bytes() -> int:
    """Resident set of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    raise SystemExit(main())
