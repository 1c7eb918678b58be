"""A ward small enough to think about: invented streams, a logistic specialist, real floor, gate and policy.

Run as a script it replays the ward into a journal, for tests that kill it: `small_ward.py FOLDER PAUSE_SECONDS`.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from smallhold.assist import Bedside, Question, ReplayPlan, Specialist, Ward, Watchdog, load_profile, replay
from smallhold.assist.hospital import NEWS2_RULES, RECORDED_TOLERANCES, WATCHED_MS, HospitalLimits
from smallhold.device.journal import Journal
from smallhold.records import Card, DeletionCheck, Evidence, Observation, Provenance, Risk
from smallhold.sectors.hospital.floor import FloorState

HOUR_MS = 3_600_000
MINUTE_MS = 60_000
PROVENANCE = Provenance(trace_id="0" * 32, clock="stay")
QUESTION = Question(
    task="icu-risk",
    field="in_hospital_death",
    choices=("no", "yes"),
    alarm_choice="yes",
    alert_threshold=0.6,
    condition="deterioration",
)
EU = load_profile("eu")
_NORMAL = {"HR": (80, 25, "/min"), "RespRate": (16, 8, "/min"), "Temp": (37, 1, "Cel"), "SysABP": (120, 40, "mm[Hg]")}


class Logistic:
    """Risk from the newest heart and respiratory rate; abstains between 45 and 55 %."""

    def __init__(self, patient: str, pause_seconds: float = 0.0) -> None:
        self.patient = patient
        self.pause_seconds = pause_seconds
        self.calls: list[tuple[str, float, int]] = []
        self._newest = {"HR": 80.0, "RespRate": 16.0}
        self._closed = dict(self._newest)
        self._t_ms = 0

    def observe(self, code: str, value: float, t_ms: int) -> None:
        self.calls.append((code, value, t_ms))
        if code in self._newest:
            self._newest[code] = value

    def close_bin(self, t_ms: int) -> None:
        self.calls.append(("", 0.0, t_ms))
        self._closed, self._t_ms = dict(self._newest), t_ms

    def logits(self) -> dict[str, float]:
        return {"HR": (self._closed["HR"] - 95) / 15, "RespRate": (self._closed["RespRate"] - 20) / 5}

    def decide(self, t_ms: int, provenance: Provenance) -> Risk:
        time.sleep(self.pause_seconds)
        p = 1 / (1 + math.exp(-sum(self.logits().values())))
        has_abstained = 0.45 < p < 0.55
        return Risk(
            patient=self.patient,
            task="icu-risk",
            field="in_hospital_death",
            t_ms=t_ms,
            choice=None if has_abstained else ("yes" if p > 0.5 else "no"),
            probabilities={"no": 1 - p, "yes": p},
            confidence=max(p, 1 - p),
            has_abstained=has_abstained,
            horizon_h=t_ms // HOUR_MS,
            model="logistic",
            latency_ms=0.0,
            provenance=provenance,
        )

    def explain(self) -> Card:
        evidence = tuple(
            Evidence(code=code, observations=(), text=f"{code} {self._closed[code]:g}", effect=logit)
            for code, logit in self.logits().items()
        )
        margin = sum(self.logits().values())
        return Card(
            patient=self.patient,
            t_ms=self._t_ms,
            text="what was seen",
            evidence=evidence,
            # It reads nothing but what it cites.
            deletion=DeletionCheck(
                margin=margin,
                margin_without=0.0,
                margin_alone=margin,
                risk_without=0.5,
                risk_alone=1 / (1 + math.exp(-margin)),
                is_necessary=margin > 0,
                is_sufficient=True,
            ),
            provenance=PROVENANCE,
        )


def reading(
    code: str = "HR",
    value: float = 80.0,
    minute: float = 0,
    *,
    patient: str = "p",
    unit: str | None = None,
    id: str = "",
) -> Observation:
    """One reading at a minute of the stay."""
    t_ms = int(minute * MINUTE_MS)
    return Observation(
        id=id or f"{code}-{minute}-{value}",
        patient=patient,
        code=code,
        value=value,
        unit=_NORMAL.get(code, (0, 0, "1"))[2] if unit is None else unit,
        t_measured_ms=t_ms,
        t_received_ms=t_ms,
        system="physionet2012",
        provenance=PROVENANCE,
    )


def stream(patient: str, seed: int, hours: int) -> Iterator[Observation]:
    """Vital signs every quarter of an hour, getting worse for odd seeds, with artefacts for the gate."""
    rng = random.Random(seed)
    number = 0
    for quarter in range(hours * 4):
        worse = quarter / (hours * 4) if seed % 2 else 0.0
        for code, (middle, spread, unit) in _NORMAL.items():
            if rng.random() < 0.3:
                continue
            value = middle + spread * rng.gauss(0, 0.4) + spread * 1.5 * worse * (-1 if code == "SysABP" else 1)
            roll = rng.random()
            if roll < 0.02:
                value = math.nan
            elif roll < 0.04:
                value = 0.0
            observation = replace(
                reading(
                    code, round(value, 1), quarter * 15, patient=patient, unit="kPa" if 0.04 <= roll < 0.05 else unit
                ),
                id=f"{patient}-{number}",
            )
            number += 1
            yield observation
            if 0.05 <= roll < 0.07:
                yield observation


def make_ward(run_id: str = "run", **settings: object) -> Ward:
    members: dict[str, object] = {
        "run_id": run_id,
        "limits": HospitalLimits(),
        "rules": NEWS2_RULES,
        "profile": EU,
        "question": QUESTION,
        "bundle": "b" * 64,
        "clock": "stay",
        "tolerances": RECORDED_TOLERANCES,
        "watched": WATCHED_MS,
    }
    return Ward(**(members | settings))  # type: ignore[arg-type]


def make_bed(
    patient: str = "p",
    specialist: Specialist | None = None,
    *,
    run_id: str = "run",
    watchdog: Watchdog | None = None,
    **settings: object,
) -> Bedside:
    return Bedside(
        patient,
        make_ward(run_id, **settings),
        FloorState(patient),
        specialist=specialist,
        watchdog=watchdog or Watchdog(10.0),
    )


def make_plan(patients: int = 5, hours: int = 8, **changes: object) -> ReplayPlan:
    members: dict[str, object] = {
        "bundle": "b" * 64,
        "profile": EU.digest,
        "data_set": "small-ward",
        "streams": {f"p{n}": stream(f"p{n}", n, hours) for n in range(patients)},
        "num_bins": hours,
    }
    return ReplayPlan(**(members | changes))  # type: ignore[arg-type]


WATCHDOG = Watchdog(10.0)


def make_bedside(run_id: str, patient: str) -> Bedside:
    return make_bed(patient, Logistic(patient), run_id=run_id, watchdog=WATCHDOG)


def main(folder: Path, pause_seconds: float) -> None:
    """Replay, telling the parent of every event; the pause spreads the run so that a kill can hit anywhere."""

    def tell(step: object) -> None:
        print("step", flush=True)
        time.sleep(pause_seconds)

    with Journal.open(folder / "journal.db") as journal:
        summary = replay(make_plan(), make_bedside, journal, on_step=tell)
        print("done", summary.resumed_steps, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
