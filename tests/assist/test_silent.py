import json
from dataclasses import replace

import pytest

from smallhold.assist import AlarmChange, Change, Step
from smallhold.assist.drift import CALIBRATION
from smallhold.assist.silent import SilentTally, share_of
from smallhold.records import Alert, Priority, Risk, ScoreSet, Window

from .small_ward import HOUR_MS, PROVENANCE
from .test_supervision import monitor


def alert(patient: str, source: str, priority: Priority) -> Alert:
    return Alert(
        id="",
        patient=patient,
        t_ms=0,
        kind="physiological",
        condition="deterioration",
        priority=priority,
        source=source,
        is_degraded=False,
        message="",
        provenance=PROVENANCE,
    )


def hour(patient: str, number: int, *, model: str = "", floor: str = "", risk: float | None = 0.5) -> Step:
    """The end of an hour; `model` and `floor` name the priority of a new alert."""
    t_ms = number * HOUR_MS

    def changes(source: str, priority: str) -> tuple[AlarmChange, ...]:
        return (AlarmChange(Change.RAISED, t_ms, alert(patient, source, Priority(priority))),) if priority else ()

    answer = None
    if risk is not None:
        answer = Risk(
            patient=patient,
            task="t",
            field="f",
            t_ms=t_ms,
            choice="yes",
            probabilities={"no": 1 - risk, "yes": risk},
            confidence=max(risk, 1 - risk),
            has_abstained=False,
            horizon_h=number,
            model="shipped",
            latency_ms=float(number),
            provenance=PROVENANCE,
        )
    return Step(
        run_id="r",
        patient=patient,
        number=number,
        t_ms=t_ms,
        provenance=PROVENANCE,
        window=Window(patient=patient, start_ms=t_ms - HOUR_MS, end_ms=t_ms, observations=(), provenance=PROVENANCE),
        scores=ScoreSet(patient=patient, t_ms=t_ms, scores=(), provenance=PROVENANCE),
        risk=answer,
        is_degraded=False,
        changes=changes("floor", floor),
        withheld=changes("model", model),
        latency_ms={},
    )


def tally() -> SilentTally:
    """Four patients of 24 hours: both alert, the model alone, the floor alone, nobody; b's outcome is unknown."""
    found = SilentTally({"a": True, "b": None, "c": False, "d": True}, alarm_choice="yes", last_ms=24 * HOUR_MS)
    for patient, alerts in {
        "a": {3: {"model": "medium"}, 7: {"floor": "medium"}, 8: {"floor": "high"}, 9: {"model": "medium"}},
        "b": {5: {"model": "medium"}, 6: {"floor": "low"}},
        "c": {2: {"floor": "high"}},
        "d": {},
    }.items():
        for number in range(1, 25):
            found.add(hour(patient, number, **alerts.get(number, {})))
    return found


def test_the_report_by_hand() -> None:
    report = tally().report(is_complete=True)
    assert (report["is_complete"], report["patients"], report["patient_days"]) == (True, 4, 4.0)
    assert (report["events"], report["outcomes_known"]) == (2, 3)
    model, floor = report["model"], report["floor"]
    assert (model["alerts"], model["alerts_per_patient_day"], model["patients_alerted"]) == (3, 0.75, 2)
    assert (model["ppv"]["k"], model["ppv"]["n"]) == (1, 1)  # b's outcome is unknown
    assert (model["sensitivity"]["k"], model["sensitivity"]["n"]) == (1, 2)
    assert (floor["alerts"], floor["patients_alerted"], floor["ppv"]["k"], floor["ppv"]["n"]) == (3, 2, 1, 2)
    who = {name: (group["patients"], group["events"]["k"]) for name, group in report["agreement"].items()}
    assert who == {"both": (1, 1), "only_model": (1, 0), "only_floor": (1, 0), "neither": (1, 1)}
    assert report["model_before_floor"]["both"] == {"patients": 1, "model_first": 1, "median_hours": 4.0}
    assert report["answers"] == {"decisions": 96, "abstained": 0, "failures": 0}
    assert report["decision"]["n"] == 96 and report["decision"]["max_ms"] == 24.0
    assert report["drift"] is None
    json.dumps(report, allow_nan=False)


def test_a_report_of_nothing_is_a_report() -> None:
    report = SilentTally({}, alarm_choice="yes", last_ms=HOUR_MS).report(is_complete=False)
    assert (report["is_complete"], report["patients"], report["model"]["alerts_per_patient_day"]) == (False, 0, None)
    assert report["model"]["ppv"]["share"] is None and report["model_before_floor"]["both"]["median_hours"] is None


def test_an_outcome_is_counted_once_with_the_last_answer() -> None:
    watched = replace(tally(), drift=monitor(), patients={}, timeline=[])
    for number in range(1, 25):
        watched.add(hour("a", number, risk=number / 100))
        watched.add(hour("b", number))
        watched.add(hour("d", number, risk=None))
    assert watched.drift is not None and watched.drift.counts[CALIBRATION] == 1
    while not watched.drift.is_drifted:
        watched.drift.add_outcome(0.01, True)
    watched.add(replace(hour("e", 1), drift=watched.drift.take_changes()))
    told = watched.report(is_complete=True)["drift"]
    assert told["now"][CALIBRATION]["state"] == "drifted"
    assert [item["state"] for item in told["changes"]] == ["watch", "drifted"]
    assert {item["patient_hours"] for item in told["changes"]} == {73}


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0)],  # Newcombe 1998, method 3
)
def test_wilsons_interval(k: int, n: int, low: float, high: float) -> None:
    found = share_of(k, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
