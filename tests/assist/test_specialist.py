import math
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smallhold.assist.specialist import Question, Watchdog, validate_risk
from smallhold.errors import BackendError, DeadlineError, DecisionError, InputError
from smallhold.records import Risk

from .small_ward import HOUR_MS, PROVENANCE, Logistic


def risk(**changes: Any) -> Risk:
    return replace(Logistic("p").decide(HOUR_MS, PROVENANCE), **changes)


def check(answer: Risk) -> Risk:
    return validate_risk(answer, ("no", "yes"), task="icu-risk", field="in_hospital_death", patient="p")


def test_a_valid_answer_comes_back_as_it_is() -> None:
    answer = risk()
    assert check(answer) is answer
    assert check(risk(choice=None, has_abstained=True)).has_abstained


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "sepsis"}, "risk.task: expected 'icu-risk', got 'sepsis'"),
        ({"field": "x"}, "risk.field: expected 'in_hospital_death', got 'x'"),
        ({"patient": "q"}, "risk.patient: expected 'p', got 'q'"),
        ({"probabilities": {"yes": 1.0}}, r"expected one for each of \['no', 'yes'\], got \['yes'\]"),
        ({"probabilities": {"no": 0.5, "yes": 0.5, "maybe": 0.0}}, "expected one for each of"),
        ({"probabilities": {"no": math.nan, "yes": 0.5}}, "expected finite numbers from 0 to 1"),
        ({"probabilities": {"no": 1.5, "yes": -0.5}}, "expected finite numbers from 0 to 1"),
        ({"probabilities": {"no": 0.5, "yes": 0.500002}}, "expected a sum of 1 within 1e-06, got 1.000002"),
        ({"confidence": 0.1}, "risk.confidence: expected the largest probability"),
        ({"confidence": math.nan}, "risk.confidence: expected the largest probability"),
        ({"choice": "maybe"}, r"risk.choice: expected one of \['no', 'yes'\], got 'maybe'"),
        ({"choice": None}, "risk.choice: got None although has_abstained is False"),
        ({"has_abstained": True}, "although has_abstained is True"),
    ],
)
def test_an_invalid_answer_is_refused_with_its_fault(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DecisionError, match=message):
        check(risk(**changes))


@given(st.floats(), st.floats())
def test_only_probabilities_pass(no: float, yes: float) -> None:
    answer = risk(probabilities={"no": no, "yes": yes}, confidence=max(no, yes))
    is_good = 0 <= no <= 1 and 0 <= yes <= 1 and abs(no + yes - 1) <= 1e-6
    try:
        check(answer)
    except DecisionError:
        assert not is_good
    else:
        assert is_good


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"alarm_choice": "maybe"}, "alarm_choice: expected one of"), ({"alert_threshold": 0.0}, r"in \(0, 1\], got 0.0")],
)
def test_a_question_that_cannot_be_answered_is_refused(changes: dict[str, Any], message: str) -> None:
    good = {"task": "t", "field": "f", "choices": ("no", "yes"), "alarm_choice": "yes", "alert_threshold": 0.5}
    with pytest.raises(InputError, match=message):
        Question(condition="c", **(good | changes))  # type: ignore[arg-type]


def test_the_watchdog_hands_results_through_from_one_other_thread() -> None:
    watchdog = Watchdog(10.0)
    threads = {watchdog.run(threading.get_ident) for _ in range(20)}
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_a_late_call_is_refused_its_result_dropped_and_the_next_ones_refused_at_once() -> None:
    watchdog, release, finished = Watchdog(0.05), threading.Event(), threading.Event()

    def slow() -> str:
        release.wait(10)
        finished.set()
        return "late"

    with pytest.raises(DeadlineError, match=r"late: no answer within 0\.05 s"):
        watchdog.run(slow)
    started = time.perf_counter()
    with pytest.raises(DeadlineError, match="refused: the model is still busy"):
        watchdog.run(lambda: "next", 30.0)
    assert time.perf_counter() - started < 10  # at once, and not after the deadline
    release.set()
    assert finished.wait(10)
    deadline = time.monotonic() + 10
    while watchdog.is_stuck and time.monotonic() < deadline:
        time.sleep(0.001)
    assert watchdog.run(lambda: "fresh", 10.0) == "fresh"


def test_whatever_a_model_raises_becomes_a_decision_error_with_its_cause() -> None:
    watchdog = Watchdog(10.0)

    def fail(error: BaseException) -> None:
        raise error

    with pytest.raises(DecisionError, match="ZeroDivisionError: oh") as raised:
        watchdog.run(lambda: fail(ZeroDivisionError("oh")))
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    with pytest.raises(BackendError, match="no memory"):
        watchdog.run(lambda: fail(BackendError("no memory")))
    with pytest.raises(DecisionError, match="SystemExit"):
        watchdog.run(lambda: fail(SystemExit(3)))
    assert watchdog.run(lambda: 1) == 1


def test_a_deadline_must_be_positive() -> None:
    with pytest.raises(InputError, match="deadline_seconds must be positive, got 0"):
        Watchdog(0)
