"""The live ward, turn by turn on clocks of our own; and in a process of its own that is killed."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smallhold.assist import Bedside, Watchdog
from smallhold.assist.alarm_inactivation import InactivationState
from smallhold.assist.hospital import NEWS2_RULES, WATCHED_MS, HospitalLimits
from smallhold.assist.interop.cds_view import JournalView
from smallhold.assist.interop.fhir_base import Dialect, Release
from smallhold.assist.interop.fhir_step import step_resources
from smallhold.assist.live import END, GAP, READING, STAFF, START, STEP, LiveSettings, LiveWard
from smallhold.assist.live_state import LiveState
from smallhold.assist.rolling_specialist import RollingSpecialist, first_bin
from smallhold.assist.sources import Inbox
from smallhold.assist.step import Step
from smallhold.assist.ward_clock import WardClock
from smallhold.assist.ward_view import draw
from smallhold.device.journal import Journal
from smallhold.errors import InputError, JournalError
from smallhold.records import Alert, Observation, Provenance, Risk
from smallhold.sectors.hospital.floor import FloorState
from smallhold.sectors.hospital.terms import HospitalTerms

from .small_ward import PROVENANCE, Logistic, make_ward

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
BIN_MS = 3_600_000
BAD = {"RespRate": (30.0, "/min"), "SysABP": (85.0, "mm[Hg]"), "HR": (135.0, "/min")}  # NEWS2 9


class Clocks:
    """A wall clock and a stopwatch that stand still until told."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_800_000_000_000, 0.0

    def pass_seconds(self, seconds: float) -> None:
        self.wall += int(seconds * 1e3)
        self.steady += seconds

    def ward(self, not_before_ms: int = 0) -> WardClock:
        return WardClock(not_before_ms=not_before_ms, wall=lambda: self.wall, steady=lambda: self.steady)


class Ward:
    """A live ward on still clocks, with what it said."""

    def __init__(self, folder: Path, clocks: Clocks, **options: Any) -> None:
        self.clocks, self.inbox = clocks, Inbox()
        self.alerts: list[Alert] = []
        self.steps: list[Step] = []
        self.specialists: dict[str, Logistic] = {}
        pause = options.pop("pause", 0.0)
        self.make_specialist = options.pop("specialist", lambda patient: Logistic(patient, pause))
        self.deadline = options.pop("deadline", 1.0)
        self.is_silent = options.pop("is_silent", False)
        self.watchdog = Watchdog(self.deadline)
        self.journal = Journal.open(folder / "journal.db", key=KEY)
        self.state = LiveState(folder / "state.db")
        settings = LiveSettings(bin_ms=BIN_MS, **options)
        _, kept = self.state.load()
        self.live = LiveWard(
            self.inbox, self.make_bed, self.journal, settings, state=self.state, on_alert=self.alerts.append,
            on_step=self.steps.append, clock=clocks.ward(kept.get("now_ms", 0)),
        )  # fmt: skip
        self.number = 0

    def make_bed(self, run_id: str, patient: str) -> Bedside:
        if patient.startswith("stranger"):
            raise InputError("not on the roster")
        ward = replace(
            make_ward(run_id),
            limits=HospitalLimits(),
            rules=NEWS2_RULES,
            clock="utc",
            thin_ms=60_000,
            watched=WATCHED_MS,
        )
        self.specialists[patient] = self.make_specialist(patient)
        specialist = self.specialists[patient]
        bed = Bedside(patient, ward, FloorState(patient), specialist=specialist, watchdog=self.watchdog)
        bed.supervise(is_silent=self.is_silent)
        return bed

    def put(self, code: str, value: float, unit: str = "/min", patient: str = "p", ago_ms: int = 0) -> None:
        now = self.clocks.wall
        self.number += 1
        self.inbox.put(
            Observation(
                id=f"{patient}-{now}-{self.number}", patient=patient, code=code, value=value, unit=unit,
                t_measured_ms=now - ago_ms, t_received_ms=now, provenance=PROVENANCE,
            )
        )  # fmt: skip

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.live.turn(0.0)

    def tick(self) -> None:
        """A turn in which a second has passed, whatever the real stopwatch says."""
        self.live._next_tick = 0.0
        self.live.turn(0.0)

    def until_decided(self, count: int) -> None:
        deadline = time.monotonic() + 10
        while self.live.counts.decisions + self.live.counts.model_failures < count:
            assert time.monotonic() < deadline
            self.turn()

    def kinds(self) -> list[str]:
        return [entry.kind for entry, _ in self.journal.entries()]

    def die(self) -> None:
        """As a kill would leave it: nothing is saved that was not."""
        self.state.close()
        self.journal.close()


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def test_the_floor_calls_people_at_once_and_the_event_is_on_record(tmp_path: Path, clocks: Clocks) -> None:
    ward = Ward(tmp_path, clocks)
    for code, (value, unit) in BAD.items():
        ward.put(code, value, unit)
    ward.turn()
    high = [alert for alert in ward.alerts if alert.priority.value == "high"]
    assert [alert.source for alert in high] == ["floor"]
    assert "NEWS2" in high[0].message
    assert any(step.announced for step in ward.steps)
    assert ward.kinds().count(STEP) + ward.kinds().count(READING) == 3
    ward.die()


def test_a_reading_of_which_nothing_comes_is_short_on_record(tmp_path: Path, clocks: Clocks) -> None:
    ward = Ward(tmp_path, clocks)
    for _ in range(5):
        ward.put("HR", 80.0)
        clocks.pass_seconds(1)
        ward.turn()
    assert ward.kinds().count(READING) >= 4
    sizes = [len(payload or b"") for entry, payload in ward.journal.entries(kind=READING)]
    assert max(sizes) < 400
    ward.die()


def test_the_model_is_asked_at_the_end_of_a_bin_and_gets_one_value_a_minute(tmp_path: Path, clocks: Clocks) -> None:
    ward = Ward(tmp_path, clocks)
    for second in range(0, 180):
        ward.put("HR", 80.0 + second % 3)
        ward.turn()
        clocks.pass_seconds(1)
    clocks.pass_seconds(BIN_MS / 1e3 - 100)
    ward.until_decided(1)
    calls = ward.specialists["p"].calls
    assert [code for code, *_ in calls] in (["HR"] * 3 + [""], ["HR"] * 4 + [""])  # minutes of the wall clock
    assert {value for code, value, _ in calls if code} == {81.0}
    bins = [step for step in ward.steps if step.window is not None]
    assert len(bins) == 1 and bins[0].risk is not None
    ward.die()


@pytest.mark.parametrize("is_silent", [True, False])
def test_what_a_model_on_trial_says_is_on_record_and_shown_to_nobody(
    is_silent: bool, tmp_path: Path, clocks: Clocks
) -> None:
    ward = Ward(tmp_path, clocks, is_silent=is_silent)
    ward.put("RespRate", 23.0)
    ward.put("HR", 128.0)  # the model alerts on it
    ward.turn(2)
    clocks.pass_seconds(BIN_MS / 1e3)
    ward.until_decided(1)
    (journalled,) = [
        step
        for _, payload in ward.journal.entries(kind=STEP)
        if payload is not None and (step := Step.from_payload(payload)).window is not None
    ]
    assert journalled.risk is not None and journalled.is_silent is is_silent
    assert bool(journalled.withheld) is is_silent
    (heard,) = [step for step in ward.steps if step.window is not None]
    held = ward.live.beds["p"]
    assert (heard.risk is None) is (held.risk is None) is is_silent
    assert not heard.withheld and heard.scores == journalled.scores
    lines = [line.text for line in draw(ward.live, rows=20)]
    assert any(" trial" in line for line in lines) is is_silent
    dialect = Dialect(Release.R4, HospitalTerms())
    made = {item["resourceType"] for item in step_resources(journalled, dialect, 0)}
    assert ("RiskAssessment" in made) is not is_silent
    picture = JournalView(ward.journal.path, KEY).picture("p")
    assert picture is not None and (picture.risk is None) is is_silent
    ward.die()


def test_readings_are_served_while_a_model_thinks(tmp_path: Path, clocks: Clocks) -> None:
    may_answer = threading.Event()

    class Thinking(Logistic):
        def decide(self, t_ms: int, provenance: Provenance) -> Risk:
            may_answer.wait(60)
            return super().decide(t_ms, provenance)

    ward = Ward(tmp_path, clocks, specialist=Thinking, deadline=60.0)
    ward.put("HR", 80.0)
    ward.turn()
    clocks.pass_seconds(BIN_MS / 1e3 + 1)
    ward.turn()
    begun = time.monotonic()
    for code, (value, unit) in BAD.items():
        ward.put(code, value, unit)
    ward.turn()
    assert time.monotonic() - begun < 10
    assert any(alert.priority.value == "high" for alert in ward.alerts)
    assert ward.live.counts.decisions == 0
    may_answer.set()
    ward.until_decided(1)
    # What came while it thought belongs to the next bin.
    assert [code for code, *_ in ward.specialists["p"].calls] == ["HR", ""]
    ward.die()


def test_a_model_that_is_late_is_passed_over_and_said_so(tmp_path: Path, clocks: Clocks) -> None:
    ward = Ward(tmp_path, clocks, pause=0.3, deadline=0.05)
    ward.put("HR", 80.0)
    ward.turn()
    clocks.pass_seconds(BIN_MS / 1e3 + 1)
    ward.until_decided(1)
    assert ward.live.counts.model_failures == 1
    assert any(alert.condition == "model-unavailable" for alert in ward.alerts)
    assert ward.live.beds["p"].model_error is not None
    ward.die()


def test_a_signal_that_is_lost_is_a_technical_alert_without_any_reading(tmp_path: Path, clocks: Clocks) -> None:
    ward = Ward(tmp_path, clocks)
    ward.put("HR", 80.0)
    ward.turn()
    clocks.pass_seconds(5 * 3600)
    ward.tick()
    assert any(alert.condition == "signal-stale:HR" and alert.kind == "technical" for alert in ward.alerts)
    ward.die()


def test_a_clock_that_jumps_locks_treatment_and_says_so(tmp_path: Path, clocks: Clocks) -> None:
    ward = Ward(tmp_path, clocks)
    ward.put("HR", 80.0)
    ward.turn()
    before = ward.live.clock.now_ms()
    clocks.wall += 3_600_000
    ward.tick()
    assert any(alert.condition == "clock-untrusted" for alert in ward.alerts)
    assert ward.live.clock.now_ms() == before  # ward time does not follow
    for code, (value, unit) in BAD.items():
        ward.put(code, value, unit)
    ward.turn()
    assert any(alert.priority.value == "high" for alert in ward.alerts)
    ward.die()


def test_a_full_disk_is_told_and_the_gap_is_on_record_when_there_is_room_again(
    tmp_path: Path, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward = Ward(tmp_path, clocks)
    ward.put("HR", 80.0)
    ward.turn()
    append = ward.journal.append

    def full(*args: Any, **kwargs: Any) -> Any:
        raise JournalError("database or disk is full")

    monkeypatch.setattr(ward.journal, "append", full)
    for code, (value, unit) in BAD.items():
        ward.put(code, value, unit)
    ward.turn(2)
    assert ward.live.journal_error is not None
    assert any(alert.priority.value == "high" for alert in ward.alerts)
    ward.tick()
    assert any(alert.condition == "journal-unavailable" for alert in ward.alerts)
    monkeypatch.setattr(ward.journal, "append", append)
    ward.live._next_try = 0.0
    ward.tick()
    assert ward.live.journal_error is None
    assert GAP in ward.kinds()
    ward.die()


def test_strangers_and_too_many_beds_are_refused_and_counted(tmp_path: Path, clocks: Clocks) -> None:
    ward = Ward(tmp_path, clocks, most_beds=2)
    for patient in ("a", "stranger", "b", "c"):
        ward.put("HR", 80.0, patient=patient)
    ward.turn()
    assert set(ward.live.beds) == {"a", "b"}
    assert ward.live.counts.refused == {"unknown_patient": 1, "no_bed": 1}
    ward.die()


def test_after_a_death_scores_alarms_and_the_model_stand_where_they_stood(tmp_path: Path, clocks: Clocks) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()

    def play(folder: Path, dies_after: Callable[[int], bool]) -> tuple[Ward, list[Any]]:
        still = Clocks()
        ward, calls = Ward(folder, still), list[Any]()
        for number in range(240):
            minute_value = 80.0 + number % 7
            ward.put("HR", minute_value)
            ward.put("RespRate", 15.0 + number % 5)
            ward.turn()
            still.pass_seconds(60)
            due = int(ward.live.clock.now_ms() - ward.live.beds["p"].admitted_ms) // BIN_MS
            deadline = time.monotonic() + 10
            while ward.live.beds["p"].bins < due or ward.live._asked is not None:
                assert time.monotonic() < deadline
                ward.turn()
            if dies_after(number):
                ward.die()
                ward = Ward(folder, still)
        while ward.live._asked is not None:
            ward.turn()
        calls = ward.specialists["p"].calls
        return ward, calls

    whole, whole_calls = play(one, lambda number: False)
    torn, torn_calls = play(two, lambda number: number in (3, 58, 59, 60, 61, 100, 179, 200))
    # The newest specialist was told the whole story again, the same one.
    assert torn_calls == whole_calls
    assert torn.live.beds["p"].bed.memory()["readings"].keys() == whole.live.beds["p"].bed.memory()["readings"].keys()
    for code, (value, _) in whole.live.beds["p"].bed.readings.items():
        assert torn.live.beds["p"].bed.readings[code][0] == value
    whole.die(), torn.die()


def test_an_acknowledgement_outlives_the_process(tmp_path: Path, clocks: Clocks) -> None:
    ward = Ward(tmp_path, clocks)
    for code, (value, unit) in BAD.items():
        ward.put(code, value, unit)
    ward.turn()
    ward.live.acknowledge("p", "deterioration", "nurse A")
    assert STAFF in ward.kinds()
    ward.die()
    again = Ward(tmp_path, clocks)
    (alert,) = (a for a in again.live.beds["p"].bed.alarms.current("p") if a.condition == "deterioration")
    assert alert.state.value == "acknowledged"
    for code, (value, unit) in BAD.items():
        again.put(code, value + 1, unit)
    clocks.pass_seconds(1)
    again.turn()
    assert not [a for a in again.alerts if a.condition == "deterioration"]  # nobody is called twice
    again.die()


def test_a_discharged_patient_is_forgotten_by_the_state_and_not_by_the_journal(tmp_path: Path, clocks: Clocks) -> None:
    ward = Ward(tmp_path, clocks)
    ward.put("HR", 80.0)
    ward.turn()
    ward.live.discharge("p", "clerk")
    with pytest.raises(InputError, match="no patient 'p' lies on this ward"):
        ward.live.discharge("p", "clerk")
    ward.live._save()
    ward.die()
    again = Ward(tmp_path, clocks)
    assert "p" not in again.live.beds or again.live.beds["p"].bins == 0
    again.die()


def test_the_clock_refuses_a_speed_that_is_none() -> None:
    with pytest.raises(InputError, match="speed: expected more than 0"):
        WardClock(0)


@pytest.mark.parametrize(("capacity", "keep"), [(48, 24), (5, 0), (7, 6), (3, 1)])
def test_sessions_begin_where_the_number_of_bins_says(capacity: int, keep: int) -> None:
    opened: list[Logistic] = []

    def open_session() -> Logistic:
        opened.append(Logistic("p"))
        return opened[-1]

    rolling = RollingSpecialist(open_session, capacity=capacity, keep_bins=keep)
    for number in range(1, 200):
        rolling.observe("HR", float(number), number)
        rolling.close_bin(number)
        held = [t_ms for code, _, t_ms in opened[-1].calls if not code]
        first = first_bin(number, capacity=capacity, keep_bins=keep)
        assert held == list(range(first + 1, number + 1))
        assert len(held) <= capacity
        assert [value for code, value, _ in opened[-1].calls if code] == [float(t) for t in held]


def test_keeping_everything_is_refused() -> None:
    with pytest.raises(InputError, match="keep_bins: expected 0 to 2, got 3"):
        RollingSpecialist(lambda: Logistic("p"), capacity=3, keep_bins=3)


def test_a_state_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(JournalError, match="could not be opened"):
        LiveState(tmp_path / "state.db")


def test_a_call_runs_between_events_and_errors_come_back(tmp_path: Path, clocks: Clocks) -> None:
    ward = Ward(tmp_path, clocks)
    ward.put("HR", 80.0)
    stop = threading.Event()
    thread = threading.Thread(target=ward.live.run, args=(stop,))
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while not ward.live.beds:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert ward.live.call(lambda: sorted(ward.live.beds)) == ["p"]
        with pytest.raises(InputError, match="no patient 'x'"):
            ward.live.call(lambda: ward.live.acknowledge("x", "deterioration", "nurse"))
    finally:
        stop.set()
        thread.join(10)
    assert ward.kinds()[0] == START and ward.kinds()[-1] == END
    ward.die()


def test_what_people_switch_off_is_on_record_from_beginning_to_end(tmp_path: Path, clocks: Clocks) -> None:
    ward = Ward(tmp_path, clocks)
    for code, (value, unit) in BAD.items():
        ward.put(code, value, unit)
    ward.turn()
    state = InactivationState.AUDIO_PAUSED
    ward.live.inactivate("p", state, "nurse", condition="", reason="at the bed", for_ms=60_000)
    with pytest.raises(InputError, match="expected 1 to 120000 ms"):
        ward.live.inactivate("p", state, "nurse", condition="", reason="", for_ms=600_000)
    clocks.pass_seconds(61)
    ward.tick()  # nothing else happens
    acts = [json.loads(payload or b"{}") for _, payload in ward.journal.entries(kind=STAFF)]
    assert [(item["action"], item["actor"], item["reason"]) for item in acts] == [("inactivate", "nurse", "at the bed")]
    changes = [event.change.value for step in ward.steps for event in step.inactivations]
    assert changes == ["began", "expired"]
    written = [Step.from_payload(payload or b"") for _, payload in ward.journal.entries(kind=STEP)]
    assert [event.change.value for step in written for event in step.inactivations] == ["began", "expired"]
    with pytest.raises(InputError, match="audio paused is not in force"):
        ward.live.reactivate("p", state, "nurse", condition="")
    ward.die()


def test_everybody_is_asked_before_anybody_is_explained(
    tmp_path: Path, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[tuple[str, str]] = []
    decide, explain = Logistic.decide, Logistic.explain

    def decided(self: Logistic, *args: Any) -> Any:
        order.append(("decide", self.patient))
        return decide(self, *args)

    def explained(self: Logistic) -> Any:
        order.append(("explain", self.patient))
        return explain(self)

    monkeypatch.setattr(Logistic, "decide", decided)
    monkeypatch.setattr(Logistic, "explain", explained)
    ward, beds = Ward(tmp_path, clocks), ("a", "b", "c")
    for patient in beds:
        ward.put("HR", 85.0, patient=patient)
        ward.put("RespRate", 23.0, patient=patient)  # the model is sure, and the floor far less
    ward.turn()
    clocks.pass_seconds(3600)
    for patient in beds:
        ward.put("HR", 128.0, patient=patient)
    ward.until_decided(3)
    assert order == [("decide", patient) for patient in beds] + [("explain", patient) for patient in beds]
    called = [alert for alert in ward.alerts if alert.source == "model"]
    assert [alert.patient for alert in called] == list(beds)
    assert len(ward.live.counts.model_alarm_ms) == 3
    assert all(step.card is not None for step in ward.steps if step.risk is not None)
    # The next question of a bed comes after the explanation of the last.
    clocks.pass_seconds(3600)
    ward.until_decided(6)
    assert order[6:] == [("decide", patient) for patient in beds]
    ward.die()


def test_a_patient_whose_answer_waits_to_be_explained_is_not_discharged(tmp_path: Path, clocks: Clocks) -> None:
    ward = Ward(tmp_path, clocks, pause=0.1)
    for patient in ("a", "b"):
        ward.put("RespRate", 23.0, patient=patient)
    ward.turn()
    clocks.pass_seconds(3600)
    for patient in ("a", "b"):
        ward.put("HR", 128.0, patient=patient)
    deadline = time.monotonic() + 10
    while not ward.live._unexplained:  # the first has answered, the second is thinking
        assert time.monotonic() < deadline
        ward.turn()
    with pytest.raises(InputError, match="is being asked"):
        ward.live.discharge("a", "clerk")
    ward.until_decided(2)
    ward.live.discharge("a", "clerk")
    assert set(ward.live.beds) == {"b"}
    ward.die()
