"""Wards of recorded or live patients: one bed each, with the floor, and the model of a bundle where there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from smallhold.assist.alarm import AlarmRules, AlarmTimes
from smallhold.assist.bedside import Bedside, Ward
from smallhold.assist.drift import DriftMonitor
from smallhold.assist.gate import Tolerances
from smallhold.assist.hospital import NEWS2_RULES, RECORDED_TOLERANCES, WATCHED_MS, HospitalLimits
from smallhold.assist.live import LiveBins
from smallhold.assist.local_specialist import LocalSpecialist
from smallhold.assist.policy import Profile
from smallhold.assist.replay import MakeBedside, ModelBins
from smallhold.assist.rolling_specialist import RollingSpecialist
from smallhold.assist.router import Route, route
from smallhold.assist.specialist import Question, Watchdog
from smallhold.assist.words import load_words
from smallhold.decide.local import FloatArray, LocalTask
from smallhold.errors import InputError
from smallhold.sectors.hospital import icu_risk, onsets
from smallhold.sectors.hospital.conditions import AdmissionRecord, condition_groups
from smallhold.sectors.hospital.floor import FloorState
from smallhold.sectors.hospital.parameters import INDEX, PARAMETERS
from smallhold.sectors.hospital.stays import Stay

#: An explanation does not hold up a floor's alarm, and on a busy machine it takes longer than an answer.
_EXPLAIN_SECONDS = 1.0
#: A monitored bed loses a signal within minutes, not hours.
MONITORED_WATCHED_MS = {"HR": 120_000}


def recorded_ward(
    stays: Mapping[str, Stay],
    local: LocalTask | None,
    profile: Profile,
    *,
    deadline_seconds: float,
    language: str = "en",
) -> MakeBedside:
    """What `replay` calls to make the bed of a patient.

    Args:
        stays: Patient to stay; only what is known on admission is read.
        local: The task beside the bed, or None for the floor alone.
        profile: The policy in force.
        deadline_seconds: A model that takes longer is passed over.
        language: Of the sentences (`words.LANGUAGES`).
    """
    admitted = {name: admitted_stay(stay) for name, stay in stays.items()}
    return admitted_ward(admitted, local, profile, deadline_seconds=deadline_seconds, language=language)


def admitted_stay(stay: Stay) -> Admitted:
    """What is known on admission of a recorded or simulated stay."""
    return Admitted(
        static=icu_risk.static_features(stay),
        is_simulated=stay.is_simulated,
        record=AdmissionRecord(icu_type=stay.icu_type),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """What is known of a patient on admission.

    Attributes:
        static: (S,) static features of the model, None where it is not to be asked.
        is_simulated: True when no person stands behind the readings.
        is_hypercapnic: NEWS2 scores the saturation on scale 2.
        record: What the specialists who watch are chosen from.
    """

    static: FloatArray | None
    is_simulated: bool = False
    is_hypercapnic: bool = False
    record: AdmissionRecord = field(default_factory=AdmissionRecord)


@dataclass(frozen=True, slots=True)
class Specialists:
    """The specialists of a bundle, and who they watch.

    Attributes:
        general: The task that watches every patient.
        tasks: Name to task of every specialist; they share the general task's trunk.
    """

    general: LocalTask
    tasks: Mapping[str, LocalTask]

    @classmethod
    def of(cls, general: LocalTask) -> Specialists:
        """Every signal task of the bundle that watches a group of conditions."""
        names = {group.task for group in condition_groups() if group.task} & set(general.bundle.manifest.tasks)
        tasks = {name: general.bundle.signal_task(name) for name in sorted(names - {general.task.name})}
        return cls(general, tasks)

    def route(self, record: AdmissionRecord) -> Route:
        """Who watches a patient."""
        return route(record, {self.general.task.name, *self.tasks}, general=self.general.task.name)

    def beside(self, record: AdmissionRecord) -> tuple[LocalTask, ...]:
        """The specialists that watch a patient, in the order of the route."""
        return tuple(self.tasks[name] for name in self.route(record).tasks if name in self.tasks)

    def live_bins(self, keep_bins: int) -> dict[str, LiveBins]:
        """When each is asked on a live ward; a session that is full begins anew over half of its bins at most."""
        return {
            name: LiveBins(
                bin_ms=local.task.signal.bin_minutes * 60_000,
                session_bins=local.task.num_bins,
                keep_bins=_kept(local, keep_bins),
            )
            for name, local in self.tasks.items()
        }

    def replay_bins(self, roster: Mapping[str, Admitted]) -> dict[str, tuple[ModelBins, ...]]:
        """When each is asked in a replay, by patient."""
        return {
            patient: tuple(
                ModelBins(local.task.name, local.task.signal.bin_minutes * 60_000, local.task.num_bins)
                for local in self.beside(admitted.record)
            )
            for patient, admitted in roster.items()
            if admitted.static is not None
        }


def _kept(local: LocalTask, keep_bins: int) -> int:
    return min(keep_bins, local.task.num_bins // 2)


def admitted_ward(
    roster: Mapping[str, Admitted],
    local: LocalTask | None,
    profile: Profile,
    *,
    deadline_seconds: float,
    language: str = "en",
    specialists: Specialists | None = None,
) -> MakeBedside:
    """As `recorded_ward`, from what is known on admission.

    Args:
        roster: Patient to what is known on admission.
        local: The task beside the bed, or None for the floor alone.
        profile: The policy in force.
        deadline_seconds: A model that takes longer is passed over.
        language: Of the sentences (`words.LANGUAGES`).
        specialists: Those that may stand beside it; None for none.
    """
    watchdog = Watchdog(deadline_seconds)
    question = None if local is None else question_of(local)
    describe, words = describer(language), load_words(language)

    def make_bed(run_id: str, patient: str) -> Bedside:
        admitted = roster[patient]
        ward = Ward(
            run_id=run_id,
            limits=HospitalLimits(),
            rules=NEWS2_RULES,
            profile=profile,
            question=question,
            bundle=None if local is None else local.bundle.manifest.digest,
            clock="stay",
            simulated=admitted.is_simulated,
            tolerances=RECORDED_TOLERANCES,
            watched=WATCHED_MS,
            language=language,
        )
        floor = FloorState(patient)
        if local is None or admitted.static is None:
            return Bedside(patient, ward, floor, watchdog=watchdog)
        static = admitted.static
        watching = () if specialists is None else specialists.beside(admitted.record)
        return Bedside(
            patient,
            ward,
            floor,
            specialist=LocalSpecialist(patient, local, static, describe, words),
            beside=[(question_of(one), LocalSpecialist(patient, one, static, describe, words)) for one in watching],
            watchdog=watchdog,
        )

    return make_bed


def live_ward(
    roster: Mapping[str, Admitted],
    local: LocalTask | None,
    profile: Profile,
    *,
    deadline_seconds: float,
    keep_bins: int,
    watched: Mapping[str, int],
    max_age_h: float,
    alarm_times: AlarmTimes | AlarmRules | None = None,
    tolerances: Tolerances | None = None,
    language: str = "en",
    drift: DriftMonitor | None = None,
    is_silent: bool = False,
    specialists: Specialists | None = None,
) -> MakeBedside:
    """What a live ward calls to make the bed of a patient.

    Args:
        roster: Patient to what is known on admission; a patient who is not on it has no bed.
        local: The task beside the beds, or None for the floor alone.
        profile: The policy in force.
        deadline_seconds: A model that takes longer is passed over.
        keep_bins: Bins that the model's next session begins with when one is full.
        watched: Signal to the longest time in ward milliseconds that it may be missing.
        max_age_h: Older readings count as missing in the scores.
        alarm_times: Delays, or all that the ward sets (`load_alarm_rules`).
        tolerances: Of the gate.
        language: Of the sentences (`words.LANGUAGES`).
        drift: Watches the model of all beds.
        is_silent: The model is on trial and calls nobody.
        specialists: Those that may stand beside the beds; None for none.
    """
    watchdog = Watchdog(deadline_seconds)
    question = None if local is None else question_of(local)
    describe, words = describer(language), load_words(language)

    def make_bed(run_id: str, patient: str) -> Bedside:
        if patient not in roster:
            raise InputError(f"patient {patient!r} is not on the ward's roster")
        admitted = roster[patient]
        ward = Ward(
            run_id=run_id,
            limits=HospitalLimits(),
            rules=NEWS2_RULES,
            profile=profile,
            question=question,
            bundle=None if local is None else local.bundle.manifest.digest,
            simulated=admitted.is_simulated,
            tolerances=tolerances or Tolerances(),
            alarm_times=alarm_times or AlarmTimes(),
            watched=watched,
            thin_ms=60_000,
            explain_deadline_seconds=max(deadline_seconds, _EXPLAIN_SECONDS),
            language=language,
        )
        floor = FloorState(patient, max_age_h=max_age_h, is_hypercapnic=admitted.is_hypercapnic)
        if local is None or admitted.static is None:
            return Bedside(patient, ward, floor)
        static = admitted.static

        def follow(task: LocalTask, keep: int) -> RollingSpecialist:
            return RollingSpecialist(
                lambda: LocalSpecialist(patient, task, static, describe, words),
                capacity=task.task.num_bins,
                keep_bins=keep,
            )

        watching = () if specialists is None else specialists.beside(admitted.record)
        bed = Bedside(
            patient,
            ward,
            floor,
            specialist=follow(local, keep_bins),
            beside=[(question_of(one), follow(one, _kept(one, keep_bins))) for one in watching],
            watchdog=watchdog,
        )
        bed.supervise(drift, is_silent=is_silent)
        return bed

    return make_bed


def question_of(local: LocalTask) -> Question:
    """What the model of a task is asked, and from which answer on it calls people."""
    asked = local.task.fields[0]
    onset = next((item for item in onsets.QUESTIONS if item.name == local.task.name), None)
    return Question(
        task=local.task.name,
        field=asked.name,
        choices=asked.choices,
        alarm_choice=asked.positive,
        # A threshold of 0 would call people to everybody; the least that calls is the smallest probability.
        alert_threshold=max(asked.alert_threshold, 1e-6),
        condition=local.task.condition,
        wording=icu_risk.ALERT_WORDING if onset is None else onset.wording,
    )


def describe_reading(code: str, value: float) -> str:
    """A reading in English words, for example `heart rate 118 /min`."""
    return describer()(code, value)


def describer(language: str = "en") -> Callable[[str, float], str]:
    """Puts (parameter, value) into words of a language."""
    words = load_words(language)
    return lambda code, value: words.reading(code, value, PARAMETERS[INDEX[code]].unit)


def unit_in_words(unit: str) -> str:
    """A UCUM code as people write it in English; empty for plain numbers."""
    return load_words().unit(unit)
