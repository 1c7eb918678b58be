import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from smallhold.assist import Bedside, Change, Step, replay
from smallhold.assist.bedside import MODEL_DRIFTED, MODEL_UNAVAILABLE
from smallhold.assist.drift import INPUTS, DriftMonitor, DriftState
from smallhold.assist.replay import STEP
from smallhold.assist.ward import Admitted, live_ward
from smallhold.decide.local import open_bundle
from smallhold.device.journal import Journal
from smallhold.errors import DecisionError, InputError, InterruptedRun
from smallhold.records import Provenance, Risk
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.hospital.floor import FloorState

from .drifting_ward import small_reference, small_signal
from .small_ward import EU, HOUR_MS, WATCHDOG, Logistic, make_bed, make_plan, make_ward, reading, stream


def monitor(run_length: float = 1e9) -> DriftMonitor:
    """Expects heart rates that nobody on the small ward has, so that it drifts within a few windows."""
    reference = small_reference("HR", means=(0.5, 0.1, 0.9, 0.0), windows=8)
    return DriftMonitor(reference, small_signal("HR"), run_length=run_length)


def play(bed: Bedside, seed: int, hours: int = 8) -> list[Step]:
    readings = stream(bed.patient, seed, hours)
    by_hour = {
        hour: list(group) for hour, group in itertools.groupby(readings, lambda o: -(-o.t_received_ms // HOUR_MS))
    }
    steps = []
    for hour in range(1, hours + 1):
        early = by_hour.get(0, []) if hour == 1 else []
        steps += [bed.observe(o, o.t_received_ms) for o in [*early, *by_hour.get(hour, [])]]
        steps.append(bed.close_bin(hour * HOUR_MS))
    return steps


def supervised(drift: DriftMonitor | None = None, *, is_silent: bool = False, patient: str = "p") -> Bedside:
    bed = make_bed(patient, Logistic(patient), watchdog=WATCHDOG)
    bed.supervise(drift, is_silent=is_silent)
    return bed


def said(steps: list[Step]) -> list[tuple[int, Change, str, str]]:
    return [
        (step.t_ms, item.change, item.alert.priority, item.alert.source)
        for step in steps
        for item in step.changes
        if item.alert.kind == "physiological"
    ]


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_on_trial_people_hear_what_they_would_hear_without_a_model(seed: int) -> None:
    silent = play(supervised(is_silent=True), seed)
    floor_alone = play(Bedside("p", make_ward(question=None, bundle=None), FloorState("p")), seed)
    assert said(silent) == said(floor_alone) and said(silent)
    assert not any(step.is_degraded or step.card for step in silent)
    assert {item.source for step in silent for item in step.proposals} <= {"floor", "gate"}
    technical = [alert.condition for step in silent for alert in step.announced if alert.kind == "technical"]
    assert MODEL_UNAVAILABLE not in technical


def test_on_trial_the_answers_and_what_they_would_have_said_are_on_record() -> None:
    silent, aloud = play(supervised(is_silent=True), 1), play(make_bed("p", Logistic("p"), watchdog=WATCHDOG), 1)
    assert [s.risk.probabilities for s in silent if s.risk] == [s.risk.probabilities for s in aloud if s.risk]
    withheld = [item for step in silent for item in step.withheld]
    first = min(step.t_ms for step in aloud if step.risk and step.risk.probabilities["yes"] >= 0.6)
    assert (withheld[0].change, withheld[0].t_ms, withheld[0].alert.source) == (Change.RAISED, first, "model")
    assert not any(step.withheld for step in aloud)


def test_on_trial_a_model_that_fails_is_no_technical_alert() -> None:
    class Broken(Logistic):
        def decide(self, t_ms: int, provenance: Provenance) -> Risk:
            raise DecisionError("broken")

    for is_silent in (False, True):
        bed = make_bed("p", Broken("p"), watchdog=WATCHDOG)
        bed.supervise(is_silent=is_silent)
        steps = play(bed, 2)
        heard = {alert.condition for step in steps for alert in step.announced}
        assert (MODEL_UNAVAILABLE in heard) is not is_silent
        assert sum(step.model_error is not None for step in steps) == 8


def drifted() -> DriftMonitor:
    found = monitor(run_length=1)
    while not found.is_drifted:
        play(supervised(found, patient="q"), 2)
    return found


def test_a_model_whose_ward_drifted_is_asked_but_calls_nobody() -> None:
    drift = drifted()
    steps = play(supervised(drift), 1)
    assert all(step.is_degraded for step in steps)
    assert sum(step.risk is not None for step in steps) == 8
    assert any(item.change is Change.RAISED for step in steps for item in step.withheld)
    assert {alert.source for step in steps for alert in step.announced} <= {"floor"}
    floor_alone = play(Bedside("p", make_ward(question=None, bundle=None), FloorState("p")), 1)
    assert said(steps) == said(floor_alone)
    # A person looks into it, and the model speaks again.
    drift.acknowledge("Dr Ito")
    bed = make_bed("p", Logistic("p"), watchdog=WATCHDOG)
    bed.supervise(drift)
    after = play(bed, 1)
    assert after[0].drift[0].actor == "Dr Ito" and after[0].drift[0].state is DriftState.OK
    assert not after[0].is_degraded


def test_drift_is_one_technical_alert_on_the_ward_and_it_says_why() -> None:
    drift = monitor(run_length=1)
    beds = [supervised(drift, patient=f"p{n}") for n in range(6)]
    alerts = []
    for hour in range(1, 9):
        for bed in beds:
            alerts += bed.observe(
                reading("HR", 150, hour * 60 - 5, patient=bed.patient), (hour * 60 - 5) * 60_000
            ).announced
            alerts += bed.close_bin(hour * HOUR_MS).announced
    told = [alert for alert in alerts if alert.condition == MODEL_DRIFTED]
    assert len(told) == 1 and told[0].kind == "technical" and told[0].is_degraded
    assert "share of extreme HR" in told[0].message and drift.is_drifted
    drift.acknowledge("Dr Ito")
    step = next(bed for bed in beds if bed.patient == told[0].patient).close_bin(9 * HOUR_MS)
    assert MODEL_DRIFTED not in {item.condition for item in step.proposals}


def test_what_the_model_said_before_it_was_demoted_is_not_taken_back_by_the_demotion() -> None:
    drift = monitor()
    bed = supervised(drift)
    bed.observe(reading("HR", 150, 5), 5 * 60_000)
    bed.close_bin(HOUR_MS)
    assert [alert.source for alert in bed.alarms.current("p") if alert.kind == "physiological"] == ["model"]
    while not drift.is_drifted:
        drift.add_outcome(0.001, True)
    bed.observe(reading("HR", 70, 65), 65 * 60_000)
    for hour in (2, 3, 4):
        bed.close_bin(hour * HOUR_MS)
    assert [alert.source for alert in bed.alarms.current("p") if alert.kind == "physiological"] == ["model"]


def test_refused_readings_are_seen_and_resent_ones_are_not() -> None:
    drift = monitor()
    bed = supervised(drift)
    bed.observe(reading("HR", 80, 5, id="a"), 5 * 60_000)
    bed.observe(reading("HR", 80, 5, id="a"), 5 * 60_000)
    bed.close_bin(HOUR_MS)
    calm = drift.status()[INPUTS]["evidence"]
    other = monitor()
    bed = supervised(other)
    bed.observe(reading("HR", 80, 5), 5 * 60_000)
    bed.observe(reading("HR", 900, 6), 6 * 60_000)
    bed.close_bin(HOUR_MS)
    assert other.status()[INPUTS]["evidence"] > calm


def test_supervision_begins_with_the_patient() -> None:
    bed = make_bed("p", Logistic("p"), watchdog=WATCHDOG)
    bed.close_bin(HOUR_MS)
    with pytest.raises(InputError, match="has seen no event yet"):
        bed.supervise(is_silent=True)


def make_supervised(is_silent: bool) -> Callable[[str, str], Bedside]:
    drift = monitor(run_length=1)

    def make(run_id: str, patient: str) -> Bedside:
        bed = make_bed(patient, Logistic(patient), run_id=run_id, watchdog=WATCHDOG)
        bed.supervise(drift, is_silent=is_silent)
        return bed

    return make


def stop_after(count: int) -> Callable[[Step], None]:
    left: Iterator[int] = iter(range(count - 1, -1, -1))

    def on_step(step: Step) -> None:
        if next(left) == 0:
            raise KeyboardInterrupt

    return on_step


@pytest.mark.parametrize("is_silent", [True, False])
def test_a_supervised_run_is_journalled_and_resumes(is_silent: bool, tmp_path: Path) -> None:
    plan = {"supervision": "silent" if is_silent else "drift"}
    found = []
    for name, counts in (("whole", []), ("cut", [200])):
        with Journal.open(tmp_path / f"{name}.db") as journal:
            for count in counts:
                with pytest.raises(InterruptedRun):
                    replay(make_plan(3, **plan), make_supervised(is_silent), journal, on_step=stop_after(count))
            replay(make_plan(3, **plan), make_supervised(is_silent), journal)
            payloads = [payload for _, payload in journal.entries(kind=STEP) if payload is not None]
        found.append([Step.from_payload(payload).without_latency().to_payload() for payload in payloads])
        assert any("withheld" in json.loads(payload) for payload in payloads)
        changes = [Step.from_payload(payload).drift for payload in payloads if "drift" in json.loads(payload)]
        assert any(change.state is DriftState.DRIFTED for step in changes for change in step)
    assert found[0] == found[1]


def test_a_run_under_supervision_is_another_run() -> None:
    ids = {make_plan(supervision=words).run_id() for words in ("", "silent", "silent abc", "abc")}
    assert len(ids) == 4


def test_a_live_ward_supervises_the_model_of_every_bed() -> None:
    models = Path(__file__).resolve().parents[2] / "models"
    local = open_bundle(models / "hospital", trusted_keys=models / "trusted_keys").signal_task("icu-risk")
    static = icu_risk.static_features_from(70, "F", None, "medical")
    settings = {"deadline_seconds": 1.0, "keep_bins": 1, "watched": {}, "max_age_h": 1.0}
    roster = {"p": Admitted(static=static, is_simulated=True), "q": Admitted(static=None)}
    drift = monitor(run_length=10.0)
    make = live_ward(roster, local, EU, drift=drift, **settings)
    bed = make("run", "p")
    assert not bed.is_degraded
    for _ in range(200):
        drift.add_window(0, np.array([1.0, 1.0, 0.0, 1.0]))
    assert bed.is_degraded  # demoted: the floor speaks alone
    drift.acknowledge("nurse")
    assert not bed.is_degraded
    assert make("run", "q").is_degraded  # no model, and none on trial
    on_trial = live_ward(roster, local, EU, is_silent=True, **settings)("run", "p")
    assert not on_trial.is_degraded and on_trial.consultation is not None
    with pytest.raises(InputError, match="is not on the ward's roster"):
        make("run", "nobody")
