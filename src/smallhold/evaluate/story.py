"""One patient's story for the report: what was measured, what the model and the floor said, hour by hour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smallhold.assist.alarm import Change
from smallhold.assist.local_specialist import LocalSpecialist
from smallhold.assist.policy import load_profile
from smallhold.assist.replay import MakeBedside
from smallhold.assist.step import Step
from smallhold.assist.ward import describe_reading, recorded_ward, unit_in_words
from smallhold.decide.local import LocalTask
from smallhold.evaluate.result import Patient
from smallhold.records import Card, Provenance
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.stays import Stay, observations

_SHOWN_VITALS = ("HR", "MAP", "SysABP", "NISysABP", "RespRate", "SaO2", "Temp", "GCS", "Lactate", "Urine")


def storied(stays: Sequence[Stay]) -> Stay:
    """The patient whose story the report tells: the first, in order of identifier, who died; not the best-looking."""
    ordered = sorted(stays, key=lambda stay: stay.record_id)
    return next((stay for stay in ordered if stay.died), ordered[0])


def tell_story(local: LocalTask, stay: Stay) -> Patient:
    """Replay one stay through a bed and collect what the report shows."""
    make_bed: MakeBedside = recorded_ward(
        {stay.record_id: stay}, local, load_profile("base-clinical"), deadline_seconds=5.0
    )
    bed = make_bed("0" * 32, stay.record_id)
    provenance = Provenance(trace_id="0" * 32, clock="stay", simulated=stay.is_simulated)
    steps: list[Step] = []
    hour = 1
    for observation in observations(stay, provenance):
        while observation.t_received_ms > hour * 3_600_000 and hour <= local.task.num_bins:
            steps.append(bed.close_bin(hour * 3_600_000))
            hour += 1
        if hour > local.task.num_bins:
            break
        steps.append(bed.observe(observation, observation.t_received_ms))
    steps += [bed.close_bin(h * 3_600_000) for h in range(hour, local.task.num_bins + 1)]
    explanations = _explanations(local, stay, steps)
    field = local.task.fields[0]
    story: Patient = {
        "id": stay.record_id,
        "outcome": "died in hospital" if stay.died else "survived",
        "threshold": field.alert_threshold,
        "vitals": _vitals(stay),
        "risk": [],
        "news2": [],
        "alerts": [],
    }
    for step in steps:
        at = step.t_ms / 3_600_000
        if step.observation is None and step.scores is not None:
            story["news2"].append([at, float(step.scores.scores[0].total)])
        if step.risk is not None:
            cited = explanations[step.t_ms].evidence
            story["risk"].append(
                {
                    "hour": at,
                    "probability": step.risk.probabilities[field.positive],
                    "has_abstained": step.risk.has_abstained,
                    "evidence": [{"code": e.code, "text": e.text, "effect": e.effect} for e in cited],
                }
            )
        story["alerts"] += [
            {
                "hour": at,
                "priority": change.alert.priority.value,
                "source": change.alert.source,
                "message": change.alert.message,
                "is_degraded": change.alert.is_degraded,
            }
            for change in step.changes
            if change.change is Change.RAISED
        ]
    return story


def _explanations(local: LocalTask, stay: Stay, steps: Sequence[Step]) -> dict[int, Card]:
    """What every hour's answer rests on; at the bed only an alert is explained, a report has the time for all."""
    specialist = LocalSpecialist(stay.record_id, local, icu_risk.static_features(stay), describe_reading)
    cards: dict[int, Card] = {}
    for step in steps:
        if step.observation is not None and step.gate is not None and step.gate.is_accepted:
            reading = step.observation
            specialist.observe(reading.code, reading.value, reading.t_measured_ms)
        if step.risk is not None:
            specialist.close_bin(step.t_ms)
            specialist.decide(step.t_ms, step.provenance)
            cards[step.t_ms] = specialist.explain()
    return cards


def _vitals(stay: Stay) -> list[Any]:
    found = []
    for name in _SHOWN_VITALS:
        index = next(i for i, parameter in enumerate(PARAMETERS) if parameter.name == name)
        mine = stay.code == index
        if mine.sum() < 2:
            continue
        points = [
            [m / 60, float(v)] for m, v in zip(stay.minute[mine].tolist(), stay.value[mine].tolist(), strict=True)
        ]
        found.append({"code": name, "unit": unit_in_words(PARAMETERS[index].unit), "points": points})
    return found[:6]
