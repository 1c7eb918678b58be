"""How often an explanation holds: evidence valid, verified by deletion, a counterfactual found; and what it costs.

Every stay of a split goes through a real bed (gate, floor, model, policy, alarms), whose floor has no rules: on a ward
the floor has often called already and the model's alert is not explained then; here every one is. Counted are:

* valid: every cited observation was made, of this patient, of this parameter, with this value;
* necessary, sufficient, both: `decide.deletion`, on the whole record;
* counterfactual found: a change of one or two newest readings, really decided again, takes the alert back.

The cost is processor time of the explaining thread, evidence and counterfactual together; beside it stands that of
appending one bin in the same process, which says how busy the machine was.

    SMALLHOLD_DATA=DIR python bench/explanations.py         # test split -> docs/figures/explanations.json
    SMALLHOLD_DATA=DIR python bench/explanations.py --split validation --stays 200 --out FILE

Deterministic but for the cost: no seed is drawn; `--stays N` takes the first N of the split.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from smallhold.assist.bedside import Bedside
from smallhold.assist.local_specialist import LocalSpecialist
from smallhold.assist.policy import load_profile
from smallhold.assist.specialist import Watchdog
from smallhold.assist.step import Step
from smallhold.assist.ward import describe_reading, recorded_ward
from smallhold.decide.local import LocalTask, open_bundle
from smallhold.device.durable_file import write_durably
from smallhold.records import Card, Observation, Provenance
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.floor import FloorState
from smallhold.sectors.hospital.stays import Stay, observations

ROOT = Path(__file__).resolve().parents[1]
TASK = "icu-risk"
_SECONDS = 60.0


class Timed(LocalSpecialist):
    """Notes what explaining costs its thread."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.cost_ms: list[float] = []
        self.bin_ms: list[float] = []

    def close_bin(self, t_ms: int) -> None:
        """See `LocalSpecialist.close_bin`."""
        begun = time.thread_time()
        super().close_bin(t_ms)
        self.bin_ms.append((time.thread_time() - begun) * 1e3)

    def explain(self) -> Card:
        """See `LocalSpecialist.explain`."""
        begun = time.thread_time()
        card = super().explain()
        self.cost_ms.append((time.thread_time() - begun) * 1e3)
        return card


def main() -> int:
    """Replay the split and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="test", choices=["validation", "test"])
    parser.add_argument("--stays", type=int, help="only the first so many")
    parser.add_argument("--data", type=Path, help="default $SMALLHOLD_DATA")
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "hospital")
    parser.add_argument("--trusted-keys", type=Path, default=ROOT / "models" / "trusted_keys")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures" / "explanations.json")
    args = parser.parse_args()
    local = open_bundle(args.bundle, trusted_keys=args.trusted_keys).signal_task(TASK)
    stays = icu_risk.split(icu_risk.load_stays(args.data), args.split)[: args.stays]
    figures = measure(local, stays)
    told = {"bundle": local.bundle.manifest.digest, "task": TASK, "split": args.split, "stays": len(stays), **figures}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_durably(args.out, [(json.dumps(told, indent=1, sort_keys=True) + "\n").encode()], mode=0o644)
    print(json.dumps(told, indent=1, sort_keys=True))
    return 0


def measure(local: LocalTask, stays: list[Stay]) -> dict[str, Any]:
    """Figures over all alerts of the model.

    Args:
        local: The task of an opened bundle.
        stays: The patients.

    Returns:
        Counts, shares of the alerts, and cost in milliseconds.
    """
    counts: Counter[str] = Counter()
    cited: list[int] = []
    cost_ms: list[float] = []
    bin_ms: list[float] = []
    watchdog = Watchdog(_SECONDS)
    make_bed = recorded_ward(
        {stay.record_id: stay for stay in stays}, local, load_profile("base-clinical"), deadline_seconds=_SECONDS
    )
    for number, stay in enumerate(stays):
        specialist = Timed(stay.record_id, local, icu_risk.static_features(stay), describe_reading)
        ward = make_bed("0" * 32, stay.record_id).ward
        ward = replace(ward, rules=replace(ward.rules, rules=()), explain_deadline_seconds=_SECONDS)
        bed = Bedside(stay.record_id, ward, FloorState(stay.record_id), specialist=specialist, watchdog=watchdog)
        made: dict[str, Observation] = {}
        for step in follow(bed, stay, local.task.num_bins, made):
            if step.explain_error is not None:
                counts["unexplained"] += 1
            if step.card is not None:
                counts.update(judge(step.card, made))
                cited.append(len(step.card.evidence))
        cost_ms += specialist.cost_ms
        bin_ms += specialist.bin_ms
        if number % 50 == 49:
            print(f"{number + 1} of {len(stays)} stays, {counts['alerts']} alerts", file=sys.stderr, flush=True)
    alerts = max(1, counts["alerts"])
    names = ("valid", "necessary", "sufficient", "verified", "counterfactual", "counterfactual_single")
    return {
        "alerts": counts["alerts"],
        "unexplained": counts["unexplained"],
        "share": {name: round(counts[name] / alerts, 4) for name in names},
        "cited": {str(count): cited.count(count) for count in sorted(set(cited))},
        "cost_ms": {f"p{q}": round(float(np.percentile(cost_ms or [0.0], q)), 1) for q in (50, 99)},
        "bin_ms": {f"p{q}": round(float(np.percentile(bin_ms or [0.0], q)), 2) for q in (50, 99)},
    }


def follow(bed: Bedside, stay: Stay, num_bins: int, made: dict[str, Observation]) -> list[Step]:
    """Put a stay through a bed; returns the steps of its bins and fills `made` with every accepted reading."""
    provenance = Provenance(trace_id="0" * 32, clock="stay", simulated=stay.is_simulated)
    steps, hour = [], 1
    for observation in observations(stay, provenance):
        while observation.t_received_ms > hour * 3_600_000 and hour <= num_bins:
            steps.append(bed.close_bin(hour * 3_600_000))
            hour += 1
        if hour > num_bins:
            return steps
        gate = bed.observe(observation, observation.t_received_ms).gate
        if gate is not None and gate.is_accepted:
            made[observation.id] = observation
    return steps + [bed.close_bin(h * 3_600_000) for h in range(hour, num_bins + 1)]


def judge(card: Card, made: dict[str, Observation]) -> list[str]:
    """What holds of one explanation."""
    held = ["alerts"]
    found = [(item, made.get(name)) for item in card.evidence for name in item.observations]
    if len(found) == len(card.evidence) and all(
        seen is not None and (seen.code, seen.value) == (item.code, item.value) for item, seen in found
    ):
        held.append("valid")
    if card.deletion is not None:
        held += ["necessary"] * card.deletion.is_necessary + ["sufficient"] * card.deletion.is_sufficient
    held += ["verified"] * card.is_verified
    if card.counterfactual is not None and card.counterfactual.codes:
        held += ["counterfactual"] + ["counterfactual_single"] * (len(card.counterfactual.codes) == 1)
    return held


if __name__ == "__main__":
    sys.exit(main())
