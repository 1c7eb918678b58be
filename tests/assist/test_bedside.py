import itertools
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from smallhold.assist import AlarmTimes, Bedside, Change, Specialist, Step, Watchdog
from smallhold.assist.bedside import JOURNAL_UNAVAILABLE, MODEL_UNAVAILABLE
from smallhold.errors import BackendError, InputError
from smallhold.records import ActionClass, Card, Effect, Observation, Priority, Proposal, Provenance, Risk

from .small_ward import HOUR_MS, MINUTE_MS, PROVENANCE, Logistic, make_bed, reading, stream

SICK = [("RespRate", 26, 3), ("SysABP", 88, 3), ("HR", 115, 2)]  # NEWS2 8


def feed(bed: Bedside, *observations: Observation) -> list[Step]:
    return [bed.observe(observation, observation.t_received_ms) for observation in observations]


def raised(steps: list[Step]) -> list[tuple[str, str, str, bool]]:
    return [
        (alert.condition, alert.priority.value, alert.source, alert.is_degraded)
        for step in steps
        for alert in step.announced
    ]


def run(bed: Bedside, observations: Iterator[Observation], hours: int) -> list[Step]:
    """All events of one stay, ends of bins included."""
    steps, end_ms = [], HOUR_MS
    for observation in observations:
        while observation.t_received_ms > end_ms:
            steps.append(bed.close_bin(end_ms))
            end_ms += HOUR_MS
        steps.append(bed.observe(observation, observation.t_received_ms))
    while end_ms <= hours * HOUR_MS:
        steps.append(bed.close_bin(end_ms))
        end_ms += HOUR_MS
    return steps


class Broken(Logistic):
    """Fails in the way it is told to, from a given bin on."""

    def __init__(self, patient: str, how: str, healthy_bins: int = 0) -> None:
        super().__init__(patient)
        self.how = how
        self.healthy_bins = healthy_bins
        self.release = threading.Event()

    def decide(self, t_ms: int, provenance: Provenance) -> Risk:
        risk = super().decide(t_ms, provenance)
        if t_ms <= self.healthy_bins * HOUR_MS:
            return risk
        match self.how:
            case "raises":
                raise RuntimeError("weights are corrupt")
            case "slow":
                self.release.wait(10)
            case "invalid":
                return replace(risk, probabilities={"no": 0.9, "yes": 0.9})
            case "abstains":
                return replace(risk, choice=None, has_abstained=True)
        return risk


def test_the_floor_alarms_at_once_and_the_model_is_not_asked_before_the_bin_ends() -> None:
    specialist = Logistic("p")
    steps = feed(make_bed("p", specialist), *(reading(code, value, 1) for code, value, _ in SICK))
    assert raised(steps) == [("deterioration", "low", "floor", False), ("deterioration", "medium", "floor", False), (
        "deterioration", "high", "floor", False)]  # fmt: skip
    assert specialist.calls == []
    assert [step.scores.scores[0].total for step in steps] == [3, 6, 8]


def test_a_refused_reading_reaches_neither_floor_nor_model() -> None:
    specialist = Logistic("p")
    bed = make_bed("p", specialist)
    (step,) = feed(bed, reading("RespRate", 0, 1))
    assert step.gate is not None and not step.gate.is_accepted
    assert step.scores.scores[0].total == 0 and "resp_rate" in step.scores.scores[0].missing
    bed.close_bin(HOUR_MS)
    assert specialist.calls == [("", 0.0, HOUR_MS)]


def test_at_the_end_of_a_bin_the_model_takes_everything_in_and_decides() -> None:
    specialist = Logistic("p")
    bed = make_bed("p", specialist)
    feed(bed, reading("HR", 120, 1), reading("Temp", 98.6, 2, unit="[degF]"))
    step = bed.close_bin(HOUR_MS)
    assert [(code, round(value, 6)) for code, value, _ in specialist.calls] == [("HR", 120), ("Temp", 37), ("", 0)]
    assert step.risk is not None and step.risk.latency_ms == step.latency_ms["decision"] > 0
    assert step.window is not None and len(step.window.observations) == 2 and step.window.end_ms == HOUR_MS
    assert step.risk.provenance == step.provenance


def test_a_model_alert_is_explained_and_takes_its_evidence_along() -> None:
    bed = make_bed("p", Logistic("p"))
    feed(bed, reading("HR", 109, 1), reading("RespRate", 20, 1))
    step = bed.close_bin(HOUR_MS)
    assert raised([step]) == [("deterioration", "medium", "model", False)]
    assert step.card is not None and step.proposals[0].evidence == step.card.evidence
    because = "; ".join(item.text for item in step.card.evidence)
    assert because and step.announced[0].message.endswith(
        f"alert threshold of 60%. Please review the patient. Carried by: {because}."
    )
    assert step.window is not None
    assert all(set(item.observations) <= set(step.window.observations) for item in step.card.evidence)
    assert all(item.observations for item in step.card.evidence)
    bed.alarms.acknowledge("p", "deterioration", "nurse", HOUR_MS)
    again = bed.close_bin(2 * HOUR_MS)
    assert again.card is None and again.announced == () and again.proposals == ()


def test_an_immediate_high_of_the_floor_wins_over_the_models_medium() -> None:
    bed = make_bed("p", Logistic("p"))
    feed(bed, *(reading(code, value, 1) for code, value, _ in SICK))
    bed.alarms.acknowledge("p", "deterioration", "nurse", 2 * MINUTE_MS)
    step = bed.close_bin(HOUR_MS)
    assert step.risk is not None and step.risk.probabilities["yes"] > 0.6
    assert step.announced == () and step.card is None
    assert [alert.priority for alert in bed.alarms.current("p")] == [Priority.HIGH]


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("raises", "failed: RuntimeError: weights are corrupt"),
        ("slow", "late: no answer within 0.05 s"),
        ("invalid", "failed: risk.probabilities: expected a sum of 1"),
    ],
)
def test_a_failing_model_leaves_the_floor_alone_and_says_so_once(how: str, error: str) -> None:
    specialist = Broken("p", how)
    bed = make_bed("p", specialist, watchdog=Watchdog(0.05 if how == "slow" else 10.0))
    steps = [bed.close_bin(HOUR_MS), bed.close_bin(2 * HOUR_MS)]
    steps += feed(bed, *(reading(code, value, 121) for code, value, _ in SICK))
    specialist.release.set()
    assert steps[0].model_error is not None and steps[0].model_error.startswith(error)
    assert all(step.is_degraded and step.risk is None for step in steps)
    assert raised(steps) == [
        (MODEL_UNAVAILABLE, "low", "gate", True),
        ("deterioration", "low", "floor", True),
        ("deterioration", "medium", "floor", True),
        ("deterioration", "high", "floor", True),
    ]


def test_without_a_model_the_floor_is_marked_degraded_from_the_start() -> None:
    steps = feed(make_bed("p"), *(reading(code, value, 1) for code, value, _ in SICK))
    assert all(is_degraded for *_, is_degraded in raised(steps))
    assert [condition for condition, *_ in raised(steps)].count(MODEL_UNAVAILABLE) == 1


def test_a_late_model_catches_up_with_everything_once_and_in_order() -> None:
    specialist = Broken("p", "slow")
    watchdog = Watchdog(0.05)
    bed = make_bed("p", specialist, watchdog=watchdog, alarm_times=AlarmTimes(settle_ms=0))
    feed(bed, reading("HR", 90, 1))
    assert bed.close_bin(HOUR_MS).model_error is not None
    feed(bed, reading("HR", 91, 61))
    assert "busy" in (bed.close_bin(2 * HOUR_MS).model_error or "")
    specialist.how = "fine"
    specialist.release.set()
    deadline = time.monotonic() + 10
    while watchdog.is_stuck and time.monotonic() < deadline:
        time.sleep(0.001)
    feed(bed, reading("HR", 92, 121))
    watchdog.deadline_seconds = 10.0
    step = bed.close_bin(3 * HOUR_MS)
    assert step.risk is not None and not step.is_degraded
    assert [change.change for change in step.changes] == [Change.RESOLVED]
    assert [(code, value) for code, value, _ in specialist.calls] == [
        ("HR", 90), ("", 0), ("HR", 91), ("", 0), ("HR", 92), ("", 0),
    ]  # fmt: skip


def test_a_call_that_raised_is_made_again_at_the_next_bin() -> None:
    class Full(Logistic):
        fails = 1

        def close_bin(self, t_ms: int) -> None:
            if self.fails:
                self.fails -= 1
                raise BackendError("out of memory")
            super().close_bin(t_ms)

    specialist = Full("p")
    bed = make_bed("p", specialist)
    assert bed.close_bin(HOUR_MS).model_error == "failed: out of memory"
    assert bed.close_bin(2 * HOUR_MS).risk is not None
    assert [t_ms for _, _, t_ms in specialist.calls] == [HOUR_MS, 2 * HOUR_MS]


def test_a_model_that_never_answers_is_given_up_and_its_queue_dropped() -> None:
    bed = make_bed("p", Broken("p", "raises"))
    for hour in range(1, 171):
        step = bed.close_bin(hour * HOUR_MS)
    assert step.model_error == "the model was given up" and step.is_degraded
    assert bed.consultation is not None and not bed.consultation._owed


def test_an_abstention_at_elevated_risk_calls_people_as_urgently_as_an_answer() -> None:
    bed = make_bed("p", Broken("p", "abstains"))
    feed(bed, reading("HR", 109, 1), reading("RespRate", 20, 1))
    step = bed.close_bin(HOUR_MS)
    assert raised([step]) == [("deterioration", "medium", "model", True)]
    assert step.announced[0].message.startswith(
        "The model is unsure, please look: Estimated risk of death in hospital 72%"
    )
    assert step.proposals[0].has_abstained and "base-journal" in step.verdicts[0].clauses


def test_an_abstention_raises_what_the_floor_calls_low_and_adds_nothing_where_the_risk_is_low() -> None:
    bed = make_bed("p", Broken("p", "abstains"))
    feed(bed, reading("HR", 109, 1), reading("RespRate", 30, 1))
    step = bed.close_bin(HOUR_MS)
    assert {proposal.source for proposal in step.proposals} == {"floor", "model"}
    assert [alert.priority for alert in step.announced] == [Priority.MEDIUM]
    calm = make_bed("p", Broken("p", "abstains"))
    step = calm.close_bin(HOUR_MS)
    assert step.proposals == () and step.is_degraded


def test_an_abstention_never_takes_an_alert_back_but_a_confident_answer_does() -> None:
    specialist = Broken("p", "abstains", healthy_bins=1)
    bed = make_bed("p", specialist, alarm_times=AlarmTimes(settle_ms=0))
    feed(bed, reading("HR", 109, 1), reading("RespRate", 20, 1))
    assert raised([bed.close_bin(HOUR_MS)]) == [("deterioration", "medium", "model", False)]
    feed(bed, reading("HR", 70, 70))
    step = bed.close_bin(2 * HOUR_MS)
    assert step.risk is not None and step.risk.has_abstained and step.is_degraded
    assert [alert.priority for alert in bed.alarms.current("p")] == [Priority.MEDIUM]
    specialist.how = "fine"
    step = bed.close_bin(3 * HOUR_MS)
    assert [change.change for change in step.changes] == [Change.RESOLVED]


def test_a_failure_never_takes_an_alert_back() -> None:
    bed = make_bed("p", Broken("p", "raises", healthy_bins=1), alarm_times=AlarmTimes(settle_ms=0))
    feed(bed, reading("HR", 109, 1), reading("RespRate", 20, 1))
    bed.close_bin(HOUR_MS)
    for hour in range(2, 6):
        bed.close_bin(hour * HOUR_MS)
    assert "deterioration" in {alert.condition for alert in bed.alarms.current("p")}


@pytest.mark.parametrize("consent", ["given", "unknown", "withheld"])
@pytest.mark.parametrize("how", [None, "raises", "invalid", "abstains", "fine"])
@pytest.mark.parametrize("has_journal_failed", [False, True])
def test_a_high_reaches_people_whatever_the_model_the_consent_or_the_journal_say(
    consent: str, how: str | None, has_journal_failed: bool
) -> None:
    specialist: Specialist | None = None if how is None else Broken("p", how)
    bed = make_bed("p", specialist, consent=consent)
    if has_journal_failed:
        bed.note_journal_failure()
    bed.close_bin(HOUR_MS)
    steps = feed(bed, *(reading(code, value, 61) for code, value, _ in SICK))
    assert ("deterioration", "high", "floor") in {found[:3] for found in raised(steps)}


def test_a_stale_signal_is_a_technical_alert_until_it_comes_back() -> None:
    bed = make_bed("p", Logistic("p"), alarm_times=AlarmTimes(settle_ms=0))
    feed(bed, reading("HR", 80, 0))
    steps = [bed.close_bin(hour * HOUR_MS) for hour in range(1, 7)]
    assert [step.t_ms // HOUR_MS for step in steps if step.announced] == [5]
    assert raised(steps) == [("signal-stale:HR", "low", "gate", False)]
    assert steps[4].announced[0].kind == "technical"
    (back,) = feed(bed, reading("HR", 80, 361))
    assert [change.change for change in back.changes] == [Change.RESOLVED]


def order(action: ActionClass, t_ms: int = 0) -> Proposal:
    return Proposal(
        patient="p",
        t_ms=t_ms,
        condition="c",
        action=action,
        priority=Priority.MEDIUM,
        source="model",
        has_abstained=False,
        is_degraded=False,
        rationale="r",
        provenance=PROVENANCE,
    )


def test_orders_are_locked_when_the_journal_fails_and_people_are_told() -> None:
    bed = make_bed("p", Logistic("p"))
    assert bed.judge(order(ActionClass.A3)).effect is Effect.CONFIRM_ONE
    bed.note_journal_failure()
    for action in (ActionClass.A3, ActionClass.A4, ActionClass.A5):
        assert bed.judge(order(action), standing_order="valid").effect is Effect.FORBID
    assert (JOURNAL_UNAVAILABLE, "low", "gate", False) in raised(feed(bed, reading("HR", 80, 1)))


def test_orders_are_locked_on_stale_data_and_after_a_clock_fault() -> None:
    bed = make_bed("p", Logistic("p"))
    feed(bed, reading("HR", 80, 10))
    assert bed.judge(order(ActionClass.A3, 5 * HOUR_MS)).effect is Effect.FORBID
    assert bed.judge(order(ActionClass.A3, 10 * MINUTE_MS)).effect is Effect.CONFIRM_ONE
    feed(bed, reading("HR", 80, 5))
    assert bed.judge(order(ActionClass.A3, 10 * MINUTE_MS)).effect is Effect.FORBID
    feed(bed, reading("HR", 80, 11))
    assert bed.judge(order(ActionClass.A3, 11 * MINUTE_MS)).effect is Effect.CONFIRM_ONE


def test_a_degraded_bed_needs_two_people_for_an_order() -> None:
    assert make_bed("p").judge(order(ActionClass.A3)).effect is Effect.CONFIRM_TWO


def test_an_explanation_that_fails_does_not_hold_the_alert_back() -> None:
    class Mute(Logistic):
        def explain(self) -> Card:
            raise RuntimeError("cannot say")

    bed = make_bed("p", Mute("p"))
    feed(bed, reading("HR", 109, 1), reading("RespRate", 20, 1))
    step = bed.close_bin(HOUR_MS)
    assert step.announced and step.card is None and step.explain_error == "RuntimeError: cannot say"


def test_every_record_carries_the_trace_the_bundle_and_the_profile() -> None:
    bed = make_bed("p", Logistic("p"))
    (step,) = feed(bed, reading("RespRate", 30, 1))
    assert step.provenance.bundle == "b" * 64 and step.provenance.profile == bed.ward.profile.digest
    for record in (step.observation, step.gate, step.scores, *step.proposals, *step.verdicts):
        assert record is not None and record.provenance == step.provenance


@pytest.mark.parametrize("seed", range(4))
def test_the_same_events_give_the_same_steps(seed: int) -> None:
    runs = [run(make_bed("p", Logistic("p")), stream("p", seed, 12), 12) for _ in range(2)]
    for one, two in zip(*runs, strict=True):
        assert one.without_latency().to_payload() == two.without_latency().to_payload()


@pytest.mark.parametrize("seed", range(4))
def test_a_recorded_run_is_derived_again_failures_included(seed: int) -> None:
    rng = random.Random(seed)

    class Moody(Logistic):
        def decide(self, t_ms: int, provenance: Provenance) -> Risk:
            if rng.random() < 0.4:
                raise RuntimeError("moody")
            return super().decide(t_ms, provenance)

    steps = run(make_bed("p", Moody("p")), stream("p", seed, 12), 12)
    assert any(step.model_error for step in steps)
    again = make_bed("p", Logistic("p"))
    for step in steps:
        recorded = Step.from_payload(step.to_payload())
        if step.observation is None:
            derived = again.close_bin(step.t_ms, recorded=recorded)
        else:
            derived = again.observe(step.observation, step.t_ms, recorded=recorded)
        assert derived.without_latency().to_payload() == step.without_latency().to_payload()


def test_latencies_come_from_the_injected_stopwatch() -> None:
    ticks = itertools.count()
    bed = make_bed("p", Logistic("p"))
    bed._monotonic = lambda: float(next(ticks))
    assert bed.close_bin(HOUR_MS).latency_ms["step"] >= 1000


def test_misuse_is_refused() -> None:
    with pytest.raises(InputError, match="the reading belongs to another patient"):
        make_bed("p").observe(reading(patient="q"), 0)
    with pytest.raises(InputError, match="a specialist needs a watchdog"):
        Bedside("p", make_bed("p").ward, make_bed("p")._floor, specialist=Logistic("p"))


class Unverified(Logistic):
    """Cites what does not stand up to deletion."""

    def explain(self) -> Card:
        card = super().explain()
        assert card.deletion is not None
        return replace(card, deletion=replace(card.deletion, is_sufficient=False))


def test_evidence_that_does_not_stand_up_to_deletion_is_not_shown_as_a_fact() -> None:
    bed = make_bed("p", Unverified("p"))
    feed(bed, reading("HR", 109, 1), reading("RespRate", 20, 1))
    step = bed.close_bin(HOUR_MS)
    assert step.card is not None and step.card.evidence and not step.card.is_verified
    assert step.proposals[0].evidence == ()
    message = step.announced[0].message
    assert message.endswith("What it rests on could not be verified.") and "Carried by" not in message
    assert Step.from_payload(step.to_payload()).card == step.card


def test_evidence_of_which_a_part_was_never_observed_was_not_verified_as_it_stands() -> None:
    bed = make_bed("p", Logistic("p"))
    feed(bed, reading("HR", 150, 1))  # no respiratory rate, which it cites all the same
    step = bed.close_bin(HOUR_MS)
    assert step.card is not None and [item.code for item in step.card.evidence] == ["HR"]
    assert step.card.deletion is None and not step.card.is_verified
    assert step.announced[0].message.endswith("What it rests on could not be verified.")
