import random

import numpy as np
import pytest

from smallhold.sectors.text_task import normalised_text
from smallhold.teach.endpoint.answers import Sample
from smallhold.teach.endpoint.filters import Label, find_repeats, judge
from smallhold.teach.endpoint.recipe import FilterChoice


def slow_repeats(texts, threshold):
    """Every pair, with sets of strings."""
    kept, found = [], []
    for i, text in enumerate(texts):
        whole = normalised_text(text)
        runs = {whole[j : j + 5] for j in range(max(1, len(whole) - 4))}
        repeated = next(
            (
                j
                for j, other_whole, other in kept
                if whole == other_whole or len(runs & other) / len(runs | other) >= threshold
            ),
            None,
        )
        found.append(repeated)
        if repeated is None:
            kept.append((i, whole, runs))
    return found


def corpus(seed, count=120):
    rng = random.Random(seed)
    words = [
        "card",
        "lost",
        "my",
        "transfer",
        "top-up",
        "failed",
        "when",
        "will",
        "it",
        "arrive",
        "the",
        "Ölpreis",
        "🏦",
    ]
    texts = []
    for _ in range(count):
        if texts and rng.random() < 0.5:
            letters = list(rng.choice(texts))
            for _ in range(rng.randrange(4)):
                letters[rng.randrange(len(letters))] = rng.choice("abc ")
            texts.append("".join(letters).strip() or "x")
        else:
            texts.append(" ".join(rng.choices(words, k=rng.randrange(1, 14))))
    return texts


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.97])
def test_the_index_finds_what_comparing_every_pair_finds(seed, threshold):
    """Which of several earlier texts is named may differ where an equal one comes later than a similar one."""
    texts = corpus(seed)
    fast, slow = find_repeats(texts, threshold), slow_repeats(texts, threshold)
    assert [of is None for of in fast] == [of is None for of in slow]
    assert sum(of is not None for of in slow) > 10


def test_equal_texts_are_those_that_the_split_keeps_together():
    texts = ["My card is lost", "my  CARD is lost https://t.co/x", "my card is lost!", "another thing"]
    assert find_repeats(texts, 1) == [None, 0, None, None]
    assert find_repeats(texts, 0.8) == [None, 0, 0, None]
    assert find_repeats(texts, 0) == [None] * 4
    assert find_repeats(["a", "b", "a", ""], 0.9) == [None, None, 0, None]


def samples(*choices):
    return [Sample(choice, f"because {choice}", None) if isinstance(choice, int) else choice for choice in choices]


@pytest.mark.parametrize(
    ("answers", "agreement", "found"),
    [
        ((1,), 0.5, 1),
        ((1, 1, 0), 0.6, 1),
        ((1, 1, 0), 0.7, "disagreement"),
        ((1, 0), 0.5, "disagreement"),  # as many for one as for the other
        ((1, 0), 0.0, "disagreement"),
        ((1, "not_json", "cut"), 0.5, "disagreement"),  # what is unusable counts against
        ((1, 1, "cut"), 0.6, 1),
        (("cut", "not_json", "cut"), 0.0, "cut"),
    ],
)
def test_a_label_is_what_enough_samples_say(answers, agreement, found):
    judged = judge(samples(*answers), 3, FilterChoice(agreement=agreement), is_soft=False)
    assert (judged.choice if isinstance(judged, Label) else judged) == found


def test_votes_are_the_probabilities_where_they_are_asked_for():
    judged = judge(samples(1, 1, 0, "cut"), 3, FilterChoice(confidence=0.6), is_soft=True)
    assert judged.probabilities == pytest.approx([1 / 3, 2 / 3, 0])
    assert (judged.agreement, judged.rationale) == (0.5, "because 1")
    assert judge(samples(1, 1, 0), 3, FilterChoice(confidence=0.7), is_soft=True) == "unsure"
    assert judge(samples(1, 1, 0), 3, FilterChoice(confidence=0.7), is_soft=False).probabilities is None


def test_the_mean_of_the_samples_probabilities_decides():
    said = [Sample(0, "", np.array([0.6, 0.4])), Sample(1, "b", np.array([0.1, 0.9]))]
    judged = judge(said, 2, FilterChoice(), is_soft=False)
    assert (judged.choice, judged.rationale) == (1, "b")
    assert judged.probabilities == pytest.approx([0.35, 0.65])
