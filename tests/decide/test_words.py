import numpy as np
import pytest

from smallhold.decide.signal import SignalSpec, fit_rank_gauss
from smallhold.decide.words import (
    CARD_ENDS_H,
    NUM_BINS,
    WordSpec,
    WordState,
    hour_word,
    quantile_bins,
    static_words,
    words_of_record,
)
from smallhold.errors import InputError, RecipeError, ShapeError

NAMES = ("HR", "Temp", "Lactate")


@pytest.fixture(scope="module")
def signal():
    rng = np.random.default_rng(0)
    return SignalSpec(NAMES, tuple(fit_rank_gauss(rng.normal(size=2000)) for _ in NAMES), 60, ("age", "sex_m"))


@pytest.fixture(scope="module")
def spec():
    return WordSpec(NAMES, ("age", "sex_m"))


def record(seed, events=400):
    rng = np.random.default_rng(seed)
    minute = np.sort(rng.integers(0, 50 * 60, events)).astype(np.int32)
    return minute, rng.integers(0, 3, events).astype(np.int16), rng.normal(size=events).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_the_whole_record_is_what_the_bedside_writes_bin_by_bin(spec, signal, seed):
    minute, code, value = record(seed)
    state, said, at = WordState(spec, signal), [], 0
    for hour in range(1, 49):
        while at < len(minute) and minute[at] <= 60 * hour:
            state.observe(NAMES[code[at]], float(value[at]))
            at += 1
        if words := state.close_bin():
            said.append(words)
    assert said == words_of_record(spec, signal, minute, code, value)


def test_a_card_names_what_was_measured_in_order_and_closes_with_its_hour(spec, signal):
    minute, code, value = np.array([10, 20, 400], np.int32), np.array([2, 0, 1], np.int16), np.zeros(3, np.float32)
    cards = words_of_record(spec, signal, minute, code, value)
    middle = f"{NUM_BINS // 2:02d}"
    assert [words[-1] for words in cards] == [hour_word(end) for end in CARD_ENDS_H]
    assert cards[0][0].startswith("<HR:") and cards[0][1].startswith("<Lactate:") and len(cards[0]) == 3
    assert all(len(words) == 1 for words in cards[1:6])  # nothing measured: the hour alone
    assert cards[6][0] in (
        f"<Temp:{middle}>",
        f"<Temp:{NUM_BINS // 2 - 1:02d}>",
    )  # minute 400 lies in the card of hour 8


def test_bins_hold_equal_shares_of_the_training_readings(signal):
    readings = np.random.default_rng(0).normal(size=2000)
    counts = np.bincount(quantile_bins(signal.grids[0](readings)), minlength=NUM_BINS)
    assert counts.min() > 0.8 * 2000 / NUM_BINS and counts.max() < 1.2 * 2000 / NUM_BINS


def test_the_vocabulary_holds_every_word_once(spec, signal):
    vocabulary = spec.vocabulary
    assert len(set(vocabulary)) == len(vocabulary) == 3 * NUM_BINS + len(CARD_ENDS_H) + 2 * 8
    said = {word for seed in range(5) for card in words_of_record(spec, signal, *record(seed)) for word in card}
    said |= set(static_words(spec, [0.4, 1.0])) | set(static_words(spec, [-2.0, 0.0]))
    assert said <= set(vocabulary)
    assert static_words(spec, [0.0, 0.0]) == []


def test_a_specification_survives_json_and_refuses_what_is_none(spec):
    assert WordSpec.from_json(spec.to_json()) == spec
    with pytest.raises(RecipeError, match="malformed"):
        WordSpec.from_json({"parameters": ["HR"]})
    with pytest.raises(RecipeError, match="increase"):
        WordSpec(NAMES, (), (4, 4))


def test_bad_readings_are_refused_and_change_nothing(spec, signal):
    state = WordState(spec, signal)
    for code, value in (("Mood", 1.0), ("HR", float("nan"))):
        with pytest.raises(InputError, match=code):
            state.observe(code, value)
    assert state.close_bin() == [hour_word(1)]
    with pytest.raises(ShapeError):
        static_words(spec, [1.0])
    with pytest.raises(RecipeError, match="parameters"):
        WordState(WordSpec(("HR",), ()), signal)
