"""Several models beside one bed: in steps, in a replay, and on a live ward that is killed."""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from smallhold.assist import Bedside, Question, Specialist, Watchdog, replay
from smallhold.assist.bedside import MODEL_UNAVAILABLE
from smallhold.assist.live import ROUTE, LiveBins, LiveSettings, LiveWard
from smallhold.assist.live_state import LiveState
from smallhold.assist.replay import ModelBins, ReplayPlan
from smallhold.assist.sources import Inbox
from smallhold.assist.step import GENERAL, SCHEMA, SPECIALIST_SCHEMA, Step
from smallhold.device.journal import Journal
from smallhold.errors import InputError, JournalError
from smallhold.records import Observation, Provenance, Risk
from smallhold.sectors.hospital.floor import FloorState

from .small_ward import HOUR_MS, MINUTE_MS, PROVENANCE, QUESTION, Logistic, make_plan, make_ward, reading
from .test_live import Clocks

KIDNEY = replace(QUESTION, task="kidney-injury", condition="kidney injury", alert_threshold=0.5)
PRESSURE = replace(QUESTION, task="hypotension", condition="hypotension", alert_threshold=0.9)
HALF_MS = HOUR_MS // 2


class Named(Logistic):
    """`Logistic` under the name of another task; fails when told."""

    def __init__(self, patient: str, task: str) -> None:
        super().__init__(patient)
        self.task, self.is_broken = task, False

    def decide(self, t_ms: int, provenance: Provenance) -> Risk:
        if self.is_broken:
            raise RuntimeError("weights are corrupt")
        return replace(super().decide(t_ms, provenance), task=self.task)


WATCHDOG = Watchdog(10.0)


def bed_with(
    beside: Sequence[tuple[Question, Specialist]], patient: str = "p", run_id: str = "run", thin_ms: int = 0
) -> Bedside:
    ward = make_ward(run_id, thin_ms=thin_ms)
    general = Logistic(patient)
    return Bedside(patient, ward, FloorState(patient), specialist=general, beside=beside, watchdog=WATCHDOG)


def two(patient: str) -> list[tuple[Question, Specialist]]:
    return [(KIDNEY, Named(patient, KIDNEY.task)), (PRESSURE, Named(patient, PRESSURE.task))]


def test_each_model_is_asked_at_the_end_of_its_own_bin_and_gets_every_reading_once() -> None:
    beside = two("p")
    bed = bed_with(beside)
    bed.observe(reading("HR", 120, 1), MINUTE_MS)
    early = bed.close_bin(HALF_MS, task=KIDNEY.task)
    bed.observe(reading("HR", 125, 40), 40 * MINUTE_MS)
    late, general = bed.close_bin(HOUR_MS, task=KIDNEY.task), bed.close_bin(HOUR_MS)
    kidney = beside[0][1]
    assert isinstance(kidney, Named)
    assert kidney.calls == [
        ("HR", 120, MINUTE_MS), ("", 0.0, HALF_MS), ("HR", 125, 40 * MINUTE_MS), ("", 0.0, HOUR_MS)
    ]  # fmt: skip
    assert [(step.task, step.risk.task if step.risk else None) for step in (early, late, general)] == [
        (KIDNEY.task, KIDNEY.task), (KIDNEY.task, KIDNEY.task), (GENERAL, "icu-risk")
    ]  # fmt: skip
    windows = [step.window for step in (early, late, general)]
    assert [(w.start_ms, w.end_ms, len(w.observations)) for w in windows if w is not None] == [
        (0, HALF_MS, 1), (HALF_MS, HOUR_MS, 1), (0, HOUR_MS, 2)
    ]  # fmt: skip


def test_models_alarm_each_about_its_own_condition() -> None:
    bed = bed_with(two("p"))
    bed.observe(reading("HR", 109, 1), MINUTE_MS)
    bed.observe(reading("RespRate", 20, 1), MINUTE_MS)
    steps = [bed.close_bin(HOUR_MS, task=task) for task in (GENERAL, KIDNEY.task, PRESSURE.task)]
    announced = [(alert.condition, alert.source) for step in steps for alert in step.announced]
    assert announced == [("deterioration", "model"), ("kidney injury", "model")]  # 72 % is below the third threshold
    assert all(step.card is not None for step in steps[:2]) and steps[2].card is None


def test_a_specialist_that_fails_is_a_technical_alert_and_the_others_go_on() -> None:
    beside = two("p")
    bed = bed_with(beside)
    broken = beside[0][1]
    assert isinstance(broken, Named)
    broken.is_broken = True
    bed.observe(reading("HR", 80, 1), MINUTE_MS)
    step = bed.close_bin(HOUR_MS, task=KIDNEY.task)
    assert step.model_error == "failed: RuntimeError: weights are corrupt"
    assert [alert.condition for alert in step.announced] == [f"{MODEL_UNAVAILABLE}:{KIDNEY.task}"]
    general = bed.close_bin(HOUR_MS)
    assert general.risk is not None and not general.is_degraded
    broken.is_broken = False
    healed = bed.close_bin(2 * HOUR_MS, task=KIDNEY.task)
    assert healed.risk is not None
    assert [code for code, _, _ in broken.calls] == ["HR", "", ""]  # what it was owed, once


def test_a_silent_ward_keeps_every_model_from_people() -> None:
    bed = bed_with(two("p"))
    bed.supervise(is_silent=True)
    bed.observe(reading("HR", 120, 1), MINUTE_MS)
    steps = [bed.close_bin(HOUR_MS, task=task) for task in (GENERAL, KIDNEY.task, PRESSURE.task)]
    assert not any(alert.source == "model" for step in steps for alert in step.announced)
    withheld = {change.alert.condition for step in steps for change in step.withheld}
    assert withheld == {"deterioration", "kidney injury"}


@pytest.mark.parametrize(
    "beside", [[(replace(KIDNEY, condition="deterioration"), Named("p", "x"))], [*two("p"), *two("p")]]
)
def test_two_models_about_one_thing_are_refused(beside: list[tuple[Question, Specialist]]) -> None:
    with pytest.raises(InputError, match="that no other model of the bed has"):
        bed_with(beside)


def test_a_task_that_is_not_there_and_a_bin_that_was_begun_are_refused() -> None:
    bed = bed_with(two("p"))
    with pytest.raises(InputError, match="no model of the task 'sepsis'"):
        bed.close_bin(HOUR_MS, task="sepsis")
    bed.begin_bin(HOUR_MS, task=KIDNEY.task)
    with pytest.raises(InputError, match="waits for end_bin"):
        bed.begin_bin(HOUR_MS)
    with pytest.raises(InputError, match="waits for end_bin"):
        bed.close_bin(HOUR_MS)
    assert bed.end_bin(HOUR_MS).task == KIDNEY.task


def test_a_step_of_a_specialist_has_a_schema_of_its_own_and_comes_back() -> None:
    bed = bed_with(two("p"))
    bed.observe(reading("HR", 120, 1), MINUTE_MS)
    steps = [bed.close_bin(HOUR_MS), bed.close_bin(HOUR_MS, task=KIDNEY.task)]
    for step, schema in zip(steps, (SCHEMA, SPECIALIST_SCHEMA), strict=True):
        payload = step.to_payload()
        assert f'"schema":"{schema}"'.encode() in payload
        assert Step.from_payload(payload).to_payload() == payload
    with pytest.raises(JournalError, match="task: expected the name of a task"):
        Step.from_payload(steps[1].to_payload().replace(b'"task":"kidney-injury"},', b'"task":""},').replace(
            b'"task":"kidney-injury","trace', b'"task":"","trace').replace(
            b'"t_ms":3600000,"task":"kidney-injury"', b'"t_ms":3600000,"task":""'))  # fmt: skip


BINS = (ModelBins(KIDNEY.task, HALF_MS, 6), ModelBins(PRESSURE.task, HOUR_MS, 3))


def make_beside(run_id: str, patient: str) -> Bedside:
    return bed_with(two(patient) if patient != "p1" else [], patient, run_id)


@given(bins=st.tuples(st.integers(1, 200), st.integers(1, 9)), hours=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_ends_of_bins_come_in_order_of_time_and_the_general_models_first(bins: tuple[int, int], hours: int) -> None:
    extra = ModelBins("x", bins[0] * MINUTE_MS, bins[1])
    told = [
        (t, task)
        for _, t, observation, task in make_plan(1, hours, beside={"p0": (extra,)}).events()
        if observation is None
    ]
    general = [(n * HOUR_MS, GENERAL) for n in range(1, hours + 1)]
    beside = [(n * extra.bin_ms, "x") for n in range(1, bins[1] + 1) if n * extra.bin_ms <= hours * HOUR_MS]
    assert told == sorted([*general, *beside])


def test_a_replay_with_specialists_resumes_to_the_same_steps(tmp_path: Path) -> None:
    def fresh() -> ReplayPlan:  # a plan's streams are read once
        return make_plan(3, 3, beside={"p0": BINS, "p2": BINS})

    plan = fresh()
    assert plan.run_id() != make_plan(3, 3).run_id() == make_plan(3, 3, beside={"p1": ()}).run_id()
    seen: list[Step] = []
    with Journal.open(tmp_path / "a.db") as journal:
        replay(plan, make_beside, journal, on_step=seen.append)
        journalled = [payload for _, payload in journal.entries(kind="step")]
    asked = [(step.patient, step.task) for step in seen if step.window is not None]
    assert asked.count(("p0", KIDNEY.task)) == 6 and asked.count(("p0", GENERAL)) == 3
    assert {task for patient, task in asked if patient == "p1"} == {GENERAL}

    class StopError(Exception):
        pass

    def stop_early(step: Step) -> None:
        if step.patient == "p2" and step.task == KIDNEY.task and step.number > 9:
            raise StopError

    with Journal.open(tmp_path / "b.db") as journal:
        with pytest.raises(StopError):
            replay(fresh(), make_beside, journal, on_step=stop_early)
        summary = replay(fresh(), make_beside, journal)
        again = [payload for _, payload in journal.entries(kind="step")]
    assert summary.resumed_steps > 9
    bare = [[Step.from_payload(p).without_latency() for p in run if p is not None] for run in (journalled, again)]
    assert bare[0] == bare[1]


class BesideWard:
    """A live ward whose patients have a specialist with bins of half an hour, on still clocks."""

    def __init__(self, folder: Path, clocks: Clocks) -> None:
        self.clocks, self.inbox = clocks, Inbox()
        self.models: dict[str, Named] = {}
        self.journal = Journal.open(folder / "journal.db", key=Ed25519PrivateKey.from_private_bytes(bytes(32)))
        self.state = LiveState(folder / "state.db")
        _, kept = self.state.load()
        bins = LiveBins(bin_ms=HALF_MS, session_bins=4, keep_bins=2)
        self.live = LiveWard(
            self.inbox, self.make_bed, self.journal, LiveSettings(bin_ms=HOUR_MS, beside={KIDNEY.task: bins}),
            state=self.state, clock=clocks.ward(kept.get("now_ms", 0)),
        )  # fmt: skip

    def make_bed(self, run_id: str, patient: str) -> Bedside:
        self.models[patient] = Named(patient, KIDNEY.task)
        ward = replace(make_ward(run_id), clock="utc", thin_ms=60_000)
        beside = [(KIDNEY, self.models[patient])]
        general = Logistic(patient)
        return Bedside(patient, ward, FloorState(patient), specialist=general, beside=beside, watchdog=WATCHDOG)

    def put(self, value: float, number: deque[int] = deque([0])) -> None:  # noqa: B006 - counts over all wards
        now = self.clocks.wall
        number[0] += 1
        self.inbox.put(
            Observation(
                id=f"r{number[0]}", patient="p", code="HR", value=value, unit="/min", t_measured_ms=now,
                t_received_ms=now, provenance=PROVENANCE,
            )
        )  # fmt: skip

    def until(self, decisions: int) -> None:
        for _ in range(3000):
            if self.live.counts.decisions >= decisions and self.live._asked is None:
                return
            self.live.turn(0.001)
        raise AssertionError(f"{self.live.counts.decisions} decisions, expected {decisions}")

    def die(self) -> None:
        self.state.close()
        self.journal.close()


def test_on_a_live_ward_a_killed_process_leaves_each_model_where_it_stood(tmp_path: Path) -> None:
    clocks = Clocks()
    ward = BesideWard(tmp_path, clocks)
    ward.put(100.0)
    ward.live.turn(0.0)
    for minutes, decisions in ((31, 1), (30, 3)):
        clocks.pass_seconds(60 * minutes)
        ward.put(100.0 + minutes)
        ward.live.turn(0.0)
        ward.until(decisions)
    live = ward.live.beds["p"]
    assert (live.models[GENERAL].bins, live.models[KIDNEY.task].bins) == (1, 2)
    routes = [payload for entry, payload in ward.journal.entries(kind=ROUTE)]
    assert len(routes) == 1 and routes[0] is not None and b'"tasks":["kidney-injury"]' in routes[0]
    before = list(ward.models["p"].calls)
    assert [call for call in before if not call[0]] and live.models[KIDNEY.task].risk is not None
    ward.die()

    again = BesideWard(tmp_path, clocks)
    live = again.live.beds["p"]
    assert (live.models[GENERAL].bins, live.models[KIDNEY.task].bins) == (1, 2)
    clocks.pass_seconds(60 * 30)
    again.put(140.0)
    again.live.turn(0.0)
    again.until(1)
    after = again.models["p"].calls
    assert after[: len(before)] == before and after[-1][0] == ""  # caught up, then asked about the third half hour
    assert again.live.beds["p"].models[KIDNEY.task].bins == 3
    again.live.discharge("p", "nurse")
    assert again.state.load()[0] == {}
    assert again.state._db.execute("SELECT count(*) FROM owed").fetchone() == (0,)
    again.die()


def test_what_a_specialists_session_no_longer_holds_is_forgotten(tmp_path: Path) -> None:
    clocks = Clocks()
    ward = BesideWard(tmp_path, clocks)
    ward.put(100.0)
    ward.live.turn(0.0)
    for n in range(1, 8):
        clocks.pass_seconds(60 * 30 + 1)
        ward.put(100.0 + n)
        ward.live.turn(0.0)
        ward.until(n + n // 2)
        ward.live._save()
    numbers = ward.state._db.execute("SELECT patient, min(bin) FROM owed GROUP BY patient ORDER BY patient").fetchall()
    assert numbers == [("p", 0), ("p\nkidney-injury", 4)]  # 7 bins, sessions of 4 that keep 2
    ward.die()
