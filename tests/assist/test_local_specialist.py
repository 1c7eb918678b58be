"""A real bundle beside a bed."""

from dataclasses import replace

import pytest

from smallhold.assist.bedside import Bedside
from smallhold.assist.local_specialist import LocalSpecialist
from smallhold.assist.policy import load_profile
from smallhold.assist.ward import describe_reading, recorded_ward
from smallhold.decide.local import TaskSession, open_bundle
from smallhold.errors import CapacityError, DecisionError, InputError
from smallhold.records import Provenance, Risk
from smallhold.sectors.hospital.icu_risk import static_features
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.stays import observations

HOUR_MS = 3_600_000
PROVENANCE = Provenance(trace_id="0" * 32, clock="stay", simulated=True)


@pytest.fixture(scope="module")
def local(flow):
    return open_bundle(flow.bundle, trusted_keys=flow.home / "trust").task("icu-risk")


def specialist(flow, local, static=None):
    static = static_features(flow.stays[0]) if static is None else static
    return LocalSpecialist("p", local, static, describe_reading)


@pytest.mark.parametrize("index", range(4))
def test_it_answers_as_a_session_does(flow, local, index):
    stay = flow.stays[index]
    static = static_features(stay)
    beside, session = specialist(flow, local, static), local.session(static)
    for reading in observations(stay, PROVENANCE):
        if reading.t_received_ms > HOUR_MS:
            break
        beside.observe(reading.code, reading.value, reading.t_measured_ms)
        session.observe(reading.code, reading.value)
    beside.close_bin(HOUR_MS)
    session.close_bin()
    risk = beside.decide(HOUR_MS, PROVENANCE)
    answer = session.decide().answers["in_hospital_death"]
    assert (risk.patient, risk.task, risk.horizon_h, risk.model) == ("p", "icu-risk", 1, "shipped")
    assert risk.probabilities == answer.probabilities
    assert (risk.choice, risk.has_abstained) == (answer.choice, answer.has_abstained)
    assert risk.confidence == max(answer.probabilities.values())
    effects = session.effects("in_hospital_death")
    card = beside.explain()
    assert {item.code for item in card.evidence} <= set(effects)
    assert beside.decide(HOUR_MS, PROVENANCE).probabilities == risk.probabilities  # asking changes nothing


def test_the_strongest_evidence_is_cited_in_words_with_its_age(flow, local, monkeypatch):
    beside = specialist(flow, local)
    effects = {"HR": 0.5, "GCS": 0.9, "Temp": -2.0, "Lactate": 0.019, "Urine": 0.02, "Na": 0.3, "K": 0.1}
    for code, minute in (("HR", 10), ("GCS", 30), ("Urine", 55)):
        beside.observe(code, 7.0, minute * 60_000)
    for hour in (1, 2):
        beside.close_bin(hour * HOUR_MS)
    beside.decide(2 * HOUR_MS, PROVENANCE)
    # What so small a model finds important is chance; that the largest effects are cited is not.
    monkeypatch.setattr(TaskSession, "effects", lambda self, field: effects)
    card = beside.explain()
    assert [(item.code, item.effect) for item in card.evidence] == [("GCS", 0.9), ("HR", 0.5), ("Na", 0.3), ("K", 0.1)]
    texts = [item.text for item in card.evidence]
    assert texts[0].endswith("7, 1 h ago") and texts[1].endswith("7 /min, 1 h ago") and texts[2] == "Na"
    said = card.text.removesuffix("; not verified by deletion")
    assert (said == card.text) == card.is_verified
    assert said.endswith("K (+0.10 log-odds)") and said.count(";") == 4
    assert [(item.value, item.age_ms) for item in card.evidence] == [
        (7.0, 90 * 60_000),
        (7.0, 110 * 60_000),
        (None, None),
        (None, None),
    ]


def test_nothing_is_asked_of_the_runtime_before_the_first_call(flow, local):
    beside = specialist(flow, local, static=[1.0])  # wrong, and found out only when the session opens
    with pytest.raises(InputError, match="static features: expected 9 finite numbers"):
        beside.close_bin(HOUR_MS)
    with pytest.raises(InputError, match="static features"):
        beside.close_bin(HOUR_MS)  # the same call can be made again


def test_it_refuses_to_answer_or_explain_without_having_seen_anything(flow, local):
    with pytest.raises(DecisionError, match="close a bin before deciding"):
        specialist(flow, local).decide(0, PROVENANCE)
    with pytest.raises(DecisionError, match="explain: nothing was decided yet"):
        specialist(flow, local).explain()


def test_after_the_last_bin_it_says_so(flow, local):
    beside = specialist(flow, local)
    for hour in range(1, 49):
        beside.close_bin(hour * HOUR_MS)
    with pytest.raises(CapacityError, match="answers for 48 bins of 60 minutes"):
        beside.close_bin(49 * HOUR_MS)
    assert beside.decide(48 * HOUR_MS, PROVENANCE).horizon_h == 48


def first_hours(bed: Bedside, stay, hours: int) -> list[Risk | None]:
    """Close so many bins of a stay, its readings put in before."""
    risks, hour = [], 1
    for reading in observations(stay, PROVENANCE):
        while reading.t_received_ms > hour * HOUR_MS:
            risks.append(bed.close_bin(hour * HOUR_MS).risk)
            hour += 1
            if hour > hours:
                return risks
        bed.observe(reading, reading.t_received_ms)
    return risks + [bed.close_bin(h * HOUR_MS).risk for h in range(hour, hours + 1)]


def test_a_ward_gives_every_patient_a_bed_of_their_own(flow, local):
    stays = {stay.record_id: stay for stay in flow.stays[:2]}
    make_bed = recorded_ward(stays, local, load_profile("base-clinical"), deadline_seconds=10.0)
    apart = {}
    for name, stay in stays.items():
        apart[name] = [risk.probabilities for risk in first_hours(make_bed("r", name), stay, 3)]
    again = recorded_ward(stays, local, load_profile("base-clinical"), deadline_seconds=10.0)
    beds = {name: again("r", name) for name in stays}
    for name in reversed(stays):
        assert [risk.probabilities for risk in first_hours(beds[name], stays[name], 3)] == apart[name]
    first, second = apart.values()
    assert first != second


def test_a_ward_reads_nothing_of_a_stay_but_what_is_known_on_admission(flow, local):
    stay = flow.stays[0]
    hidden = replace(
        stay, died=not stay.died, saps1=30.0, minute=stay.minute[:0], code=stay.code[:0], value=stay.value[:0]
    )
    risks = []
    for known in (stay, hidden):
        make_bed = recorded_ward({"x": known}, local, load_profile("base-clinical"), deadline_seconds=10.0)
        bed = make_bed("r", "x")
        risks.append([bed.close_bin(h * HOUR_MS).risk.probabilities for h in (1, 2)])
    assert risks[0] == risks[1]


def test_a_ward_without_a_model_has_beds_with_the_floor_alone(flow):
    stay = flow.stays[0]
    make_bed = recorded_ward({stay.record_id: stay}, None, load_profile("base-clinical"), deadline_seconds=1.0)
    step = make_bed("r", stay.record_id).close_bin(HOUR_MS)
    assert step.risk is None and step.is_degraded
    assert step.provenance.simulated is True and step.provenance.bundle is None


@pytest.mark.parametrize(
    ("code", "value", "words"),
    [("HR", 118.0, "118 /min"), ("SysABP", 95.0, "95 mmHg"), ("Temp", 38.5, "38.5 °C"), ("GCS", 7.0, "7")],
)
def test_a_reading_in_words(code, value, words):
    text = describe_reading(code, value)
    title = next(parameter.title for parameter in PARAMETERS if parameter.name == code)
    assert text.lower() == f"{title} {words}".lower()
