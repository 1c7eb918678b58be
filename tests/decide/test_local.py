from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the bundle of these tests is built with the extra 'train'")

import smallhold
from smallhold.decide import Decision, LocalTask, TaskSession, check_bundle, open_bundle
from smallhold.decide.plan import Field, FieldPlan, calibrate_logits
from smallhold.decide.signal import encode_stays
from smallhold.errors import (
    BackendError,
    BundleError,
    CapacityError,
    DecisionError,
    InputError,
    IntegrityError,
    RecipeError,
    ShapeError,
)
from smallhold.sectors.hospital.icu_risk import static_features
from smallhold.sectors.hospital.parameters import PARAMETERS

BACKENDS = ("reference", "onnx_runtime")


@pytest.fixture(scope="module", params=BACKENDS)
def task(request: pytest.FixtureRequest, small_bundle: Any) -> LocalTask:
    return open_bundle(small_bundle.path, backend=request.param, trusted_keys=small_bundle.trusted_keys).task(
        "icu-risk"
    )


def play(task: LocalTask, stay: Any, hours: int) -> TaskSession:
    session = task.session(static_features(stay))
    at = 0
    for hour in range(1, hours + 1):
        while at < len(stay.minute) and stay.minute[at] <= 60 * hour:
            session.observe(PARAMETERS[stay.code[at]].name, float(stay.value[at]))
            at += 1
        session.close_bin()
    return session


def said(decision: Decision) -> dict:
    return {name: (answer.choice, answer.probabilities) for name, answer in decision.answers.items()}


def test_bin_by_bin_equals_the_whole_record_in_one_pass(task: LocalTask, small_bundle: Any) -> None:
    field = task.task.fields[0]
    for stay in small_bundle.stays[:3]:
        channels = encode_stays(task.task.signal, [(stay.minute, stay.code, stay.value)], 48)[0]
        whole = task.logits(channels, static_features(stay), [1, 6, 17])[field.name]
        for row, hours in enumerate((1, 6, 17)):
            session = play(task, stay, hours)
            np.testing.assert_allclose(session.channels(), channels[:hours], atol=1e-5)
            expected = calibrate_logits(field, whole[row])[1]
            decision = session.decide()
            assert decision.bins == hours
            assert decision.task == "icu-risk"
            assert decision.latency_ms >= 0
            # The rounding of 8-bit activations can flip on differences of the last float32 digit.
            assert decision.answers[field.name].probabilities["yes"] == pytest.approx(expected, abs=2e-3)


def test_deciding_changes_nothing(task: LocalTask, small_bundle: Any) -> None:
    stay = small_bundle.stays[0]
    asked, silent = play(task, stay, 5), play(task, stay, 5)
    first = said(asked.decide())
    assert said(asked.decide()) == first
    for session in (asked, silent):
        session.observe("HR", 150.0)
        session.close_bin()
    assert said(asked.decide()) == said(silent.decide())
    assert said(asked.decide()) != first
    assert asked.state_bytes == silent.state_bytes


def test_effects_leave_the_session_as_it_was(task: LocalTask, small_bundle: Any) -> None:
    stay = small_bundle.stays[1]
    asked, silent = play(task, stay, 5), play(task, stay, 5)
    before = said(asked.decide())
    first = asked.effects("in_hospital_death")
    assert said(asked.decide()) == before
    assert asked.effects("in_hospital_death") == first
    for session in (asked, silent):
        session.observe("HR", 150.0)
        session.close_bin()
    assert said(asked.decide()) == said(silent.decide())


def test_an_effect_is_what_a_recomputation_without_the_parameter_loses(task: LocalTask, small_bundle: Any) -> None:
    stay, field = small_bundle.stays[2], task.task.fields[0]
    session = play(task, stay, 4)
    effects = session.effects(field.name)
    measured = {PARAMETERS[code].name for code, minute in zip(stay.code, stay.minute, strict=True) if minute <= 240}
    assert set(effects) == measured
    channels = session.channels()
    per = channels.shape[1] // len(PARAMETERS)

    def margin(rows: np.ndarray) -> float:
        logits = task.logits(rows, static_features(stay), [4])[field.name][0] / field.temperature
        return float(logits[1] - logits[0])

    for name, effect in effects.items():
        i = task.task.signal.parameters.index(name)
        without = channels.copy()
        without[3, i * per : (i + 1) * per] = 0
        assert effect == pytest.approx(margin(channels) - margin(without), abs=2e-2)  # 8-bit activations, as above


def test_effects_of_a_parameter_that_was_never_measured_are_not_reported(task: LocalTask) -> None:
    session = task.session([0.0] * len(task.task.signal.static))
    session.observe("HR", 80.0)
    session.close_bin()
    assert set(session.effects("in_hospital_death")) == {"HR"}


def test_patients_do_not_share_anything(task: LocalTask, small_bundle: Any) -> None:
    alone = [said(play(task, stay, 6).decide()) for stay in small_bundle.stays[:3]]
    sessions = [task.session(static_features(stay)) for stay in small_bundle.stays[:3]]
    at = [0, 0, 0]
    for hour in range(1, 7):
        for i, stay in enumerate(small_bundle.stays[:3]):  # interleaved
            while at[i] < len(stay.minute) and stay.minute[at[i]] <= 60 * hour:
                sessions[i].observe(PARAMETERS[stay.code[at[i]]].name, float(stay.value[at[i]]))
                at[i] += 1
            sessions[i].close_bin()
            sessions[i].decide()
    assert [said(session.decide()) for session in sessions] == alone


def test_a_session_is_full_after_the_last_bin_and_still_answers(task: LocalTask) -> None:
    session = task.session([0.0] * len(task.task.signal.static))
    for _ in range(task.task.num_bins):
        session.close_bin()
    before = said(session.decide())
    with pytest.raises(CapacityError, match="task icu-risk answers for 48 bins of 60 minutes"):
        session.close_bin()
    assert session.bins == 48
    assert said(session.decide()) == before


def test_a_task_that_outgrows_the_context_is_refused_before_the_first_patient(task: LocalTask) -> None:
    LocalTask(task.bundle, replace(task.task, num_bins=63))
    with pytest.raises(BackendError, match="64 bins need a context of 65 positions, the trunk has 64"):
        LocalTask(task.bundle, replace(task.task, num_bins=64))


def test_asking_before_the_first_bin_is_refused(task: LocalTask) -> None:
    session = task.session([0.0] * len(task.task.signal.static))
    with pytest.raises(DecisionError, match="task icu-risk: close a bin before deciding"):
        session.decide()
    with pytest.raises(DecisionError, match="task icu-risk: close a bin before asking for effects"):
        session.effects("in_hospital_death")
    assert session.channels().shape == (0, task.task.signal.num_channels)


def test_readings_that_cannot_be_used_are_refused_and_leave_no_trace(task: LocalTask) -> None:
    clean, dirty = (task.session([0.0] * len(task.task.signal.static)) for _ in range(2))
    with pytest.raises(InputError, match="unknown parameter 'Mood'"):
        dirty.observe("Mood", 1.0)
    for value in (math.nan, math.inf):
        with pytest.raises(InputError, match="HR: expected a finite value"):
            dirty.observe("HR", value)
    clean.close_bin()
    dirty.close_bin()
    assert said(clean.decide()) == said(dirty.decide())


def test_static_features_come_in_order_or_by_name(task: LocalTask) -> None:
    names = task.task.signal.static
    values = [i / 10 for i in range(len(names))]
    sessions = task.session(values), task.session(dict(zip(reversed(names), reversed(values), strict=True)))
    for session in sessions:
        session.close_bin()
    assert said(sessions[0].decide()) == said(sessions[1].decide())


@pytest.mark.parametrize(
    "change",
    [lambda v: v[:-1], lambda v: [*v[:-1], math.nan], lambda v: {"age": 1.0}, lambda v: [v, v]],
    ids=["too few", "not finite", "names missing", "another shape"],
)
def test_static_features_that_do_not_fit_are_refused(task: LocalTask, change: Callable) -> None:
    with pytest.raises(ShapeError, match="static features: expected"):
        task.session(change([0.0] * len(task.task.signal.static)))


def test_an_unknown_field_is_refused(task: LocalTask) -> None:
    session = task.session([0.0] * len(task.task.signal.static))
    session.close_bin()
    with pytest.raises(RecipeError, match="no field 'mood'"):
        session.effects("mood")


def test_memory_of_a_session_counts_cache_summaries_and_kept_bins(task: LocalTask) -> None:
    session = task.session([0.0] * len(task.task.signal.static))
    before = session.state_bytes
    session.close_bin()
    assert session.state_bytes >= before + 4 * task.task.signal.num_channels


def test_both_runtimes_decide_alike(small_bundle: Any) -> None:
    tasks = [
        open_bundle(small_bundle.path, backend=name, trusted_keys=small_bundle.trusted_keys).task("icu-risk")
        for name in BACKENDS
    ]
    for stay in small_bundle.stays[:3]:
        reference, shipped = (play(task, stay, 12).decide().answers["in_hospital_death"] for task in tasks)
        # One of the two rounds activations to 8 bits.
        assert shipped.probabilities["yes"] == pytest.approx(reference.probabilities["yes"], abs=0.05)


def slow_logits(session: Any, plan: FieldPlan) -> list[float]:
    """Each choice token by token in a fork of its own, whole rows of logits, among what may follow."""
    rows: dict[tuple[int, ...], np.ndarray] = {}
    found = [0.0] * len(plan.passes[0][0].choices)
    for branch in (branch for along in plan.passes for branch in along):
        if branch.path not in rows:
            fork = session.fork()
            for token in branch.path:
                fork.append([token])
            rows[branch.path] = fork.score([], [-1])[0].astype(np.float64)
        row = rows[branch.path][list(branch.tokens)]
        for choice, follow in zip(branch.choices, branch.follows, strict=True):
            found[choice] += row[follow] - np.log(np.exp(row - row.max()).sum()) - row.max()
    return found


@pytest.mark.parametrize(
    ("choices", "places", "passes"),
    [
        (("risk no", "risk yes"), 1, 1),
        (("atrial fibrillation", "atrial flutter", "sinus rhythm"), 2, 1),
        (("low", "high", "higher", "highest"), 3, 1),
        (("ab", "ac", "ba", "bb", "b"), 3, 2),
    ],
)
def test_choices_that_part_anywhere_are_read_and_the_session_stays(
    task: LocalTask, small_bundle: Any, choices: tuple[str, ...], places: int, passes: int
) -> None:
    name = task.task.fields[0].name
    field = Field(name=name, choices=choices, positive=choices[-1])
    changed = LocalTask(task.bundle, replace(task.task, fields=(field,)))
    plan = changed.plans[name]
    assert (plan.num_branches, len(plan.passes)) == (places, passes)
    stay = small_bundle.stays[0]
    asked, silent = play(changed, stay, 5), play(changed, stay, 5)
    before = said(asked.decide())
    assert list(before[name][1]) == list(choices)
    assert said(asked.decide()) == before
    # 8-bit activations, whole and in pieces
    expected = calibrate_logits(field, np.array(slow_logits(asked._trunk, plan)))
    np.testing.assert_allclose(list(before[name][1].values()), expected, atol=2e-3)
    whole = changed.logits(asked.channels(), asked.static, [5, 2])[name]
    np.testing.assert_allclose(calibrate_logits(field, whole[0]), expected, atol=2e-3)
    two = play(changed, stay, 2).decide().answers[name].probabilities
    np.testing.assert_allclose(calibrate_logits(field, whole[1]), list(two.values()), atol=2e-3)
    for session in (asked, silent):
        session.observe("HR", 150.0)
        session.close_bin()
    assert said(asked.decide()) == said(silent.decide())
    with pytest.raises(DecisionError, match="cannot be explained by deletion yet"):
        asked.effects(name)


def test_the_context_has_to_hold_the_longest_choice(task: LocalTask) -> None:
    fields = (Field(name="f", choices=("no", "yes, and", "yes, but"), positive="no"),)
    LocalTask(task.bundle, replace(task.task, num_bins=58, fields=fields, word_fields=()))
    with pytest.raises(BackendError, match="59 bins need a context of 65 positions, the trunk has 64"):
        LocalTask(task.bundle, replace(task.task, num_bins=59, fields=fields, word_fields=()))


def test_the_public_door_verifies_and_opens(small_bundle: Any) -> None:
    bundle = smallhold.open(
        small_bundle.path, trusted_keys=small_bundle.trusted_keys, now=datetime(2025, 7, 1, tzinfo=UTC)
    )
    assert bundle.manifest.is_simulated
    assert bundle.task("icu-risk").trees() is not None
    with pytest.raises(InputError, match="no task 'triage', only icu-risk"):
        bundle.task("triage")
    with pytest.raises(InputError, match="backend: expected one of onnx_runtime, engine, reference, got 'cuda'"):
        open_bundle(small_bundle.path, backend="cuda", trusted_keys=small_bundle.trusted_keys)  # type: ignore[arg-type]


def test_nobody_is_trusted_by_default(small_bundle: Any, tmp_path: Any) -> None:
    with pytest.raises(BundleError, match="signed by nobody this device trusts"):
        open_bundle(small_bundle.path, trusted_keys=tmp_path)


def test_the_health_check_makes_a_decision(small_bundle: Any) -> None:
    check_bundle(small_bundle.path)


def test_a_file_that_was_changed_after_the_bundle_was_opened_is_refused(small_bundle: Any, tmp_path: Any) -> None:
    path = shutil.copytree(small_bundle.path, tmp_path / "bundle")
    opened = open_bundle(path, trusted_keys=small_bundle.trusted_keys)
    file = path / "tasks" / "icu-risk.json"
    file.write_bytes(file.read_bytes().replace(b'"alert_threshold":0', b'"alert_threshold":1'))
    with pytest.raises(IntegrityError, match=r"tasks/icu-risk\.json was altered after the bundle was opened"):
        opened.task("icu-risk")
    with pytest.raises(IntegrityError, match="gone is not among its files"):
        opened.read("gone")


def test_a_bin_that_the_runtime_failed_to_take_is_closed_once(
    task: LocalTask, small_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stay = small_bundle.stays[0]
    smooth, shaken = play(task, stay, 3), play(task, stay, 2)
    at = int(np.searchsorted(stay.minute, 120, side="right"))
    while at < len(stay.minute) and stay.minute[at] <= 180:
        shaken.observe(PARAMETERS[stay.code[at]].name, float(stay.value[at]))
        at += 1

    def fail(inputs: Any) -> None:
        raise BackendError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(shaken._trunk, "append", fail)
        with pytest.raises(BackendError, match="out of memory"):
            shaken.close_bin()
    assert shaken.bins == 2
    shaken.close_bin()
    np.testing.assert_array_equal(shaken.channels(), smooth.channels())
    assert said(shaken.decide()) == said(smooth.decide())
