import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from smallhold.assist import Bedside, ReplayPlan, Step, replay
from smallhold.assist.hospital import NEWS2_RULES, RECORDED_TOLERANCES, WATCHED_MS, HospitalLimits
from smallhold.assist.replay import END, START, STEP
from smallhold.device.journal import Journal
from smallhold.errors import InputError, InterruptedRun, JournalError
from smallhold.records import Alert
from smallhold.sectors.hospital.floor import FloorState

from . import small_ward
from .small_ward import HOUR_MS, MINUTE_MS, Logistic, make_bed, make_bedside, make_plan, make_ward, reading


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db") as opened:
        yield opened


def steps(journal: Journal) -> list[Step]:
    return [Step.from_payload(payload) for _, payload in journal.entries(kind=STEP) if payload is not None]


def timeless(found: list[Step]) -> list[bytes]:
    return [step.without_latency().to_payload() for step in found]


def stop_after(count: int) -> Callable[[Step], None]:
    left = [count]

    def on_step(step: Step) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    return on_step


def test_events_come_in_the_documented_order() -> None:
    streams = {
        "b": [reading("HR", 1, 0, patient="b"), reading("HR", 2, 60, patient="b"), reading("HR", 3, 61, patient="b")],
        "a": [
            reading("HR", 4, 60, patient="a"),
            reading("Temp", 5, 60, patient="a"),
            reading("HR", 6, 999, patient="a"),
        ],
    }
    plan = make_plan(streams=streams, num_bins=2)
    told = [(who, t_ms // MINUTE_MS, None if o is None else o.value) for who, t_ms, o, _ in plan.events()]
    assert told == [
        ("b", 0, 1),
        ("b", 60, 2),
        ("a", 60, 4),
        ("a", 60, 5),
        ("b", 60, None),
        ("a", 60, None),
        ("b", 61, 3),
        ("b", 120, None),
        ("a", 120, None),
    ]


def test_every_patient_gets_every_bin_however_few_beds_there_are() -> None:
    for beds in (1, 2, 3, 100):
        told = list(make_plan(beds=beds).events())
        ends = [(who, t_ms) for who, t_ms, observation, _ in told if observation is None]
        assert sorted(ends) == sorted((f"p{n}", h * HOUR_MS) for n in range(5) for h in range(1, 9))
        assert len(told) == len(list(make_plan().events()))


def test_the_number_of_beds_changes_no_patients_steps(tmp_path: Path) -> None:
    found = []
    for beds in (2, 100):
        with Journal.open(tmp_path / f"{beds}.db") as journal:
            replay(make_plan(beds=beds), make_bedside, journal)
            # The run id, and with it every trace, follows the plan; all else must agree.
            found.append(sorted((s.patient, s.number, s.t_ms, s.scores.scores, s.is_degraded) for s in steps(journal)))
    assert found[0] == found[1]


def test_the_summary_counts_what_the_journal_holds(journal: Journal) -> None:
    alerts: list[Alert] = []
    summary = replay(make_plan(), make_bedside, journal, on_alert=alerts.append)
    found = steps(journal)
    gates = [step.gate for step in found if step.gate is not None]
    assert summary.steps == len(found) and summary.resumed_steps == 0 and summary.patients == 5
    assert summary.observations == len(gates) and summary.accepted == sum(gate.is_accepted for gate in gates)
    assert summary.accepted + sum(summary.rejected.values()) == summary.observations
    assert set(summary.rejected) == {"duplicate", "not_finite", "range", "unit"}
    assert summary.decisions == 5 * 8 and summary.model_failures == 0
    assert summary.abstained == sum(step.risk.has_abstained for step in found if step.risk)
    assert sum(n for sources in summary.alerts.values() for n in sources.values()) + summary.escalations == len(alerts)
    assert alerts == [alert for step in found for alert in step.announced]
    assert summary.degraded_steps == sum(step.is_degraded for step in found)
    assert (
        summary.decision.n == 40 and 0 < summary.decision.p50_ms <= summary.decision.p99_ms <= summary.decision.max_ms
    )
    assert summary.events_per_second > 0 and summary.journal_error is None
    assert json.loads(json.dumps(summary.to_json()))["run_id"] == summary.run_id


def test_the_journal_tells_what_was_run(journal: Journal) -> None:
    summary = replay(make_plan(), make_bedside, journal)
    kinds = [entry.kind for entry, _ in journal.entries()]
    assert (kinds[0], kinds[-1], set(kinds[1:-1])) == (START, END, {STEP})
    ((_, start),) = journal.entries(kind=START)
    assert start is not None
    told = json.loads(start)
    assert told["patients"] == [f"p{n}" for n in range(5)] and told["run_id"] == summary.run_id == make_plan().run_id()
    assert {step.run_id for step in steps(journal)} == {summary.run_id}


@pytest.mark.parametrize(
    "change", [{"bundle": None}, {"profile": "0"}, {"data_set": "x"}, {"num_bins": 9}, {"patients": 4}, {"beds": 2}]
)
def test_the_run_id_depends_on_everything_but_the_readings(change: dict[str, object]) -> None:
    assert make_plan(**change).run_id() != make_plan().run_id()  # type: ignore[arg-type]
    assert make_plan().run_id(1) != make_plan().run_id()


@pytest.mark.parametrize("count", [1, 2, 77, 300, 450])
def test_an_interrupted_run_resumes_without_repeating_an_entry_or_an_alert(count: int, tmp_path: Path) -> None:
    with Journal.open(tmp_path / "whole.db") as journal:
        whole: list[Alert] = []
        expected = replay(make_plan(), make_bedside, journal, on_alert=whole.append)
        uninterrupted = timeless(steps(journal))
    with Journal.open(tmp_path / "cut.db") as journal:
        alerts: list[Alert] = []
        with pytest.raises(InterruptedRun, match=f"replay stopped after {count} events") as raised:
            replay(make_plan(), make_bedside, journal, on_alert=alerts.append, on_step=stop_after(count))
        assert raised.value.hint == "run the same command again to resume"
        assert timeless(steps(journal)) == uninterrupted[:count]
        summary = replay(make_plan(), make_bedside, journal, on_alert=alerts.append)
        assert timeless(steps(journal)) == uninterrupted
        assert [entry.kind for entry, _ in journal.entries(kind=START)] == [START]
    assert summary.resumed_steps == count and alerts == whole
    assert replace(summary, **_measured(expected)) == replace(expected, resumed_steps=count)


def _measured(summary: object) -> dict[str, object]:
    return {n: getattr(summary, n) for n in ("step", "decision", "explain", "wall_seconds", "events_per_second")}


def test_a_finished_run_is_not_resumed_but_run_anew(journal: Journal) -> None:
    first, second = (replay(make_plan(), make_bedside, journal) for _ in range(2))
    assert first.run_id != second.run_id == make_plan().run_id(1)
    assert second.resumed_steps == 0 and first.alerts == second.alerts


def test_other_runs_in_the_same_journal_are_left_alone(journal: Journal) -> None:
    with pytest.raises(InterruptedRun):
        replay(make_plan(), make_bedside, journal, on_step=stop_after(100))
    replay(make_plan(patients=2), make_bedside, journal)
    assert replay(make_plan(), make_bedside, journal).resumed_steps == 100


def test_data_that_changed_since_the_run_began_are_noticed(journal: Journal) -> None:
    with pytest.raises(InterruptedRun):
        replay(make_plan(), make_bedside, journal, on_step=stop_after(100))
    changed = make_plan()
    streams = {patient: list(stream) for patient, stream in changed.streams.items()}
    streams["p3"][5] = replace(streams["p3"][5], value=77.7, unit="/min", code="HR")
    with pytest.raises(JournalError, match="step 5 of a patient differs from what the journal says"):
        replay(make_plan(streams=streams), make_bedside, journal)


def test_a_journal_with_more_steps_than_the_data_give_is_noticed(journal: Journal) -> None:
    with pytest.raises(InterruptedRun):
        replay(make_plan(), make_bedside, journal, on_step=stop_after(450))
    shorter = {patient: list(stream)[:10] for patient, stream in make_plan().streams.items()}
    with pytest.raises(JournalError, match=r"differs|more steps than the data give"):
        replay(make_plan(streams=shorter), make_bedside, journal)


def test_an_erased_step_cannot_be_resumed_over(journal: Journal) -> None:
    with pytest.raises(InterruptedRun):
        replay(make_plan(), make_bedside, journal, on_step=stop_after(50))
    journal.erase(20, "asked by the patient")
    with pytest.raises(JournalError, match="cannot be resumed: the payload of entry 20 was erased"):
        replay(make_plan(), make_bedside, journal)


def test_alerts_go_on_when_the_journal_fails_and_the_summary_says_so(tmp_path: Path) -> None:
    def close_at_200(step: Step) -> None:
        nonlocal count
        count += 1
        if count == 200:
            journal.close()

    count, alerts = 0, list[Alert]()
    journal = Journal.open(tmp_path / "journal.db")
    summary = replay(make_plan(), make_bedside, journal, on_alert=alerts.append, on_step=close_at_200)
    assert "is closed" in (summary.journal_error or "")
    assert summary.steps == len(list(make_plan().events()))
    assert "journal-unavailable" in {alert.condition for alert in alerts}
    with Journal.open(tmp_path / "journal.db") as journal:
        assert len(steps(journal)) == 200
        assert replay(make_plan(), make_bedside, journal).resumed_steps == 200


def test_readings_out_of_order_of_arrival_are_refused(journal: Journal) -> None:
    plan = make_plan(streams={"p": [reading("HR", 80, 5), reading("HR", 80, 4)]})
    with pytest.raises(InputError, match="order of arrival: 240000 ms after 300000 ms"):
        replay(plan, make_bedside, journal)


def test_a_plan_without_events_is_refused() -> None:
    with pytest.raises(InputError, match="num_bins must be at least 1, got 0"):
        make_plan(num_bins=0)


@pytest.mark.slow
def test_nothing_is_lost_when_the_process_is_killed_at_random_moments(tmp_path: Path) -> None:
    """SIGKILL, twenty times in one run: each time the journal holds what was reported, and the next start goes on."""
    with Journal.open(tmp_path / "whole.db") as journal:
        replay(make_plan(), make_bedside, journal)
        uninterrupted = timeless(steps(journal))
    rng, held = random.Random(7), 0
    source = str(Path(small_ward.__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source + os.pathsep + os.environ.get("PYTHONPATH", "")}
    command = [sys.executable, small_ward.__file__, str(tmp_path)]
    for _ in range(20):
        worker = subprocess.Popen([*command, "0.001"], stdout=subprocess.PIPE, text=True, env=environment)
        assert worker.stdout is not None
        reported = sum(line == "step\n" for _, line in zip(range(held + 1), worker.stdout, strict=False))
        time.sleep(rng.uniform(0, 0.05))
        worker.send_signal(signal.SIGKILL)
        rest, _ = worker.communicate(timeout=60)
        reported += rest.count("step\n")
        with Journal.open(tmp_path / "journal.db") as journal:
            found = timeless(steps(journal))
        assert len(found) >= max(held, reported)
        assert found == uninterrupted[: len(found)]
        held = len(found)
    last = subprocess.run([*command, "0"], capture_output=True, text=True, env=environment, timeout=120, check=True)
    assert last.stdout.splitlines()[-1].startswith("done")
    with Journal.open(tmp_path / "journal.db") as journal:
        assert timeless(steps(journal)) == uninterrupted
        assert [entry.kind for entry, _ in journal.entries()].count(START) == 1


@pytest.mark.data
def test_real_patients_pass_the_gate_and_the_floor(tmp_path: Path) -> None:
    if "SMALLHOLD_DATA" not in os.environ:
        pytest.skip("SMALLHOLD_DATA is not set: physionet2012_icu is needed")
    pytest.importorskip("zstandard", reason="zstandard is not installed: physionet2012_icu is compressed")
    from smallhold.sectors.hospital.icu_risk import load_stays
    from smallhold.sectors.hospital.stays import observations

    stays = load_stays()[:10]

    def bed(run_id: str, patient: str) -> Bedside:
        ward = make_ward(run_id, rules=NEWS2_RULES, tolerances=RECORDED_TOLERANCES, watched=WATCHED_MS)
        return Bedside(patient, replace(ward, limits=HospitalLimits()), FloorState(patient))

    plan = ReplayPlan(
        bundle=None,
        profile=small_ward.EU.digest,
        data_set="physionet2012_icu",
        streams={stay.record_id: observations(stay, small_ward.PROVENANCE) for stay in stays},
        num_bins=48,
    )
    with Journal.open(tmp_path / "journal.db") as journal:
        summary = replay(plan, bed, journal)
    assert summary.steps == summary.observations + 480
    assert summary.accepted / summary.observations > 0.97
    assert set(summary.rejected) <= {"range", "duplicate"}
    assert summary.degraded_steps == summary.steps


def test_a_ward_with_a_stuck_model_still_ends_soon(journal: Journal) -> None:
    """One model that never returns costs one deadline, not one per bed and bin."""

    class Stuck(Logistic):
        def decide(self, t_ms: int, provenance: object) -> object:  # type: ignore[override]
            time.sleep(3600)
            raise AssertionError

    watchdog = small_ward.Watchdog(0.1)

    def bed(run_id: str, patient: str) -> Bedside:
        return make_bed(patient, Stuck(patient), run_id=run_id, watchdog=watchdog)

    started = time.monotonic()
    summary = replay(make_plan(), bed, journal)
    assert time.monotonic() - started < 30
    assert summary.decisions == 0 and summary.model_failures == 40
    assert summary.alerts["low"]["gate"] == 5
