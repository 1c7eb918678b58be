"""A patient in observation words, by the bundle that the repository carries; its patients here are simulated."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from smallhold.decide.conformal import Conformal, Group
from smallhold.decide.local import LocalTask, open_bundle
from smallhold.decide.plan import Answer, Field, answer_field
from smallhold.sectors.hospital.icu_risk import static_features
from smallhold.sectors.hospital.parameters import PARAMETERS
from smallhold.sectors.hospital.simulator import simulate_ward

MODELS = Path(__file__).resolve().parents[2] / "models"
HOURS = (6, 12, 27)
#: At 6 h nothing is excluded, at 12 h everything but the most probable choice, at 24 h nothing again.
PROMISE = Conformal(
    alpha=0.1,
    is_by_choice=True,
    groups=tuple(
        Group(name=name, least=least, counts=(99, 99))
        for name, least in (("6", (0.0, 0.0)), ("12", (1.0, 1.0)), ("24", (0.0, 0.0)))
    ),
)


@pytest.fixture(scope="module")
def local() -> LocalTask:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    return open_bundle(MODELS / "hospital", trusted_keys=MODELS / "trusted_keys", now=now).signal_task("icu-risk")


@pytest.fixture(scope="module")
def stay() -> Any:
    return simulate_ward(1, 0, 48)[0]


def play(local: LocalTask, stay: Any) -> dict[int, Answer]:
    """What a session in words answers at every hour."""
    session, at, found = local.word_session(static_features(stay)), 0, {}
    for hour in range(1, max(HOURS) + 3):
        while at < len(stay.minute) and stay.minute[at] <= 60 * hour:
            session.observe(PARAMETERS[stay.code[at]].name, float(stay.value[at]))
            at += 1
        session.close_bin()
        found[hour] = session.decide()[local.task.fields[0].name]
    return found


def expected(local: LocalTask, stay: Any, field: Field, group: str | None) -> list[Answer]:
    whole = local.word_door().logits(
        local.bundle.backend.session(), stay.minute, stay.code, stay.value, static_features(stay), HOURS
    )
    return [answer_field(field, row, group) for row in whole[field.name]]


def test_without_fields_of_their_own_words_are_answered_as_before(local: LocalTask, stay: Any) -> None:
    local = LocalTask(local.bundle, replace(local.task, word_fields=()))
    said, plain = play(local, stay), replace(local.task.fields[0], conformal=None)
    for hour, answer in zip(HOURS, expected(local, stay, plain, None), strict=True):
        assert said[hour].probabilities == pytest.approx(answer.probabilities, abs=0.01)
        assert said[hour].choice == answer.choice is not None


def test_words_are_answered_by_their_own_map_and_promise_in_the_group_of_the_newest_card(
    local: LocalTask, stay: Any
) -> None:
    own = replace(local.task.fields[0], temperature=3.0, alert_threshold=1.0, conformal=PROMISE)
    said = play(LocalTask(local.bundle, replace(local.task, word_fields=(own,))), stay)
    plain = expected(local, stay, replace(own, conformal=None), None)
    for hour, answer in zip(HOURS, plain, strict=True):
        assert said[hour].probabilities == pytest.approx(answer.probabilities, abs=0.01)
    signal = play(local, stay)
    assert said[6].probabilities != pytest.approx(signal[6].probabilities, abs=0.01)
    for hour, answer in said.items():
        newest = max(end for end in local.task.words.card_ends if end <= hour)  # type: ignore[union-attr]
        is_answered = 12 <= newest < 24
        assert answer.has_abstained is not is_answered, hour
        assert len(answer.prediction_set) == (1 if is_answered else 2)
