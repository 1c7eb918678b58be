"""A ward of recorded patients: one bed each, with the floor, and the model of a bundle where there is one."""

from __future__ import annotations

from collections.abc import Mapping

from smallhold.assist.bedside import Bedside, Ward
from smallhold.assist.hospital import NEWS2_RULES, RECORDED_TOLERANCES, WATCHED_MS, HospitalLimits
from smallhold.assist.local_specialist import LocalSpecialist
from smallhold.assist.policy import Profile
from smallhold.assist.replay import MakeBedside
from smallhold.assist.specialist import Question, Watchdog
from smallhold.decide.local import LocalTask
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.floor import FloorState
from smallhold.sectors.hospital.parameters import INDEX, PARAMETERS
from smallhold.sectors.hospital.stays import Stay

_UNITS_IN_WORDS = {
    "mm[Hg]": "mmHg",
    "Cel": "°C",
    "10*3/uL": "×10³/µL",
    "ug/L": "µg/L",
    "{score}": "",
    "[pH]": "",
    "1": "",
}


def recorded_ward(
    stays: Mapping[str, Stay],
    local: LocalTask | None,
    profile: Profile,
    *,
    deadline_seconds: float,
) -> MakeBedside:
    """What `replay` calls to make the bed of a patient.

    Args:
        stays: Patient to stay; only what is known on admission is read.
        local: The task beside the bed, or None for the floor alone.
        profile: The policy in force.
        deadline_seconds: A model that takes longer is passed over.
    """
    watchdog = Watchdog(deadline_seconds)
    field = None if local is None else local.task.fields[0]
    question = None
    if local is not None and field is not None:
        question = Question(
            task=local.task.name,
            field=field.name,
            choices=field.choices,
            alarm_choice=field.positive,
            # A threshold of 0 would call people to everybody; the least that calls is the smallest probability.
            alert_threshold=max(field.alert_threshold, 1e-6),
            condition=local.task.condition,
            wording=icu_risk.ALERT_WORDING,
        )

    def make_bed(run_id: str, patient: str) -> Bedside:
        stay = stays[patient]
        ward = Ward(
            run_id=run_id,
            limits=HospitalLimits(),
            rules=NEWS2_RULES,
            profile=profile,
            question=question,
            bundle=None if local is None else local.bundle.manifest.digest,
            clock="stay",
            simulated=stay.is_simulated,
            tolerances=RECORDED_TOLERANCES,
            watched=WATCHED_MS,
        )
        specialist = None
        if local is not None:
            specialist = LocalSpecialist(patient, local, icu_risk.static_features(stay), describe_reading)
        return Bedside(patient, ward, FloorState(patient), specialist=specialist, watchdog=watchdog)

    return make_bed


def describe_reading(code: str, value: float) -> str:
    """A reading in words, for example `heart rate 118 /min`."""
    parameter = PARAMETERS[INDEX[code]]
    return f"{parameter.title} {value:g} {unit_in_words(parameter.unit)}".rstrip()


def unit_in_words(unit: str) -> str:
    """A UCUM code as people write it; empty for plain numbers."""
    return _UNITS_IN_WORDS.get(unit, unit)
