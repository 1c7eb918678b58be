import json
import math
from dataclasses import replace
from typing import Any

import pytest

from smallhold.assist.step import Step, trace_id
from smallhold.errors import JournalError
from smallhold.records import ActionClass, Effect, canonical_json

from .small_ward import HOUR_MS, Logistic, make_bed, reading


def eventful_steps() -> list[Step]:
    bed = make_bed("p", Logistic("p"))
    steps = [bed.observe(reading("HR", 140, 5), 5 * 60_000), bed.observe(reading("RespRate", 30, 6), 6 * 60_000)]
    steps += [bed.observe(reading("Temp", math.nan, 7), 7 * 60_000), bed.close_bin(HOUR_MS)]
    return steps


def test_a_step_comes_back_as_it_was() -> None:
    for step in eventful_steps():
        again = Step.from_payload(step.to_payload())
        assert again.to_payload() == step.to_payload()
        if step.gate is None or step.gate.is_accepted:  # NaN is not equal to itself
            assert again.without_latency() == step.without_latency()


def test_a_reading_without_a_number_is_on_record() -> None:
    step = Step.from_payload(eventful_steps()[2].to_payload())
    assert step.observation is not None and math.isnan(step.observation.value)
    assert step.gate is not None and step.gate.reasons == ("not_finite: Temp reads nan",)


def test_the_payload_is_canonical_and_holds_the_provenance_once() -> None:
    for step in eventful_steps():
        payload = step.to_payload()
        assert canonical_json(json.loads(payload)) == payload
        assert payload.count(step.provenance.trace_id.encode()) == 1


def test_an_alert_from_an_earlier_event_keeps_its_own_trace() -> None:
    bed = make_bed("p", Logistic("p"))
    bed.observe(reading("RespRate", 30, 0), 0)
    raised = bed.observe(reading("SysABP", 85, 0), 0)
    escalated = bed.close_bin(HOUR_MS)
    again = Step.from_payload(escalated.to_payload())
    assert {c.alert.provenance.trace_id for c in again.changes} >= {raised.changes[0].alert.provenance.trace_id}
    assert again.changes == escalated.changes


def test_latency_is_all_that_two_runs_may_differ_in() -> None:
    for one, two in zip(eventful_steps(), eventful_steps(), strict=True):
        assert one.without_latency().to_payload() == two.without_latency().to_payload()


def test_an_order_that_is_not_forbidden_must_be_signed_at_once() -> None:
    step = eventful_steps()[0]
    verdict = step.verdicts[0]
    assert not step.must_checkpoint
    order = replace(verdict, action=ActionClass.A3, effect=Effect.CONFIRM_ONE)
    assert replace(step, verdicts=(verdict, order)).must_checkpoint
    assert not replace(step, verdicts=(replace(order, effect=Effect.FORBID),)).must_checkpoint


def test_traces_depend_on_run_patient_and_number() -> None:
    traces = {trace_id(run, patient, number) for run in "ab" for patient in "pq" for number in (0, 1)}
    assert len(traces) == 8 and all(len(trace) == 32 for trace in traces)
    assert trace_id("a", "p", 0) == trace_id("a", "p", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "smallhold.step/3"}, "schema: expected 'smallhold.step/1' or 'smallhold.step/2'"),
        ({"schema": "smallhold.step/2"}, "task"),
        ({"task": "hypotension"}, "task: expected the schema 'smallhold.step/2'"),
        ({"is_silent": 1}, "is_silent: expected true or false, got 1"),
        ({"extra": 1}, r"unknown members \['extra'\]"),
        ({"number": "3"}, "number: expected"),
        ({"scores": {"schema": "smallhold.score-set/1"}}, "missing members"),
        ({"provenance": {}}, "missing members"),
        ({"gate": {"schema": "smallhold.window/1"}}, "missing members"),
    ],
)
def test_a_step_that_cannot_be_read_is_refused(change: dict[str, Any], message: str) -> None:
    value = json.loads(eventful_steps()[0].to_payload()) | change
    with pytest.raises(JournalError, match=f"a journalled step cannot be read: .*{message}"):
        Step.from_payload(canonical_json(value))


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b"\xff", b'{"schema":"smallhold.step/1"}'])
def test_garbage_is_refused(payload: bytes) -> None:
    with pytest.raises(JournalError, match="a journalled step cannot be read"):
        Step.from_payload(payload)
