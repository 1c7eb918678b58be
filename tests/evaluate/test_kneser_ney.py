from __future__ import annotations

import os
from collections import Counter, defaultdict
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from smallhold.errors import DataError, InputError
from smallhold.evaluate.kneser_ney import KneserNey, discounts, fit_kneser_ney

V, BOS = 11, 0


def random_documents(seed: int, *, count: int = 60, length: int = 40) -> list[np.ndarray]:
    """Tokens 1 to 8 of a chain that likes to step by one: every count of counts up to four occurs."""
    rng = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        steps = rng.choice([1, 1, 1, 2, 5], size=rng.integers(0, length))
        documents.append(1 + np.cumsum(steps) % 8)
    return documents


class Slow:
    """The same model from dictionaries, one n-gram at a time, as the paper writes it."""

    def __init__(self, documents: list[np.ndarray], order: int) -> None:
        self.order = order
        grams = []
        for document in documents:
            padded = [BOS] * (order - 1) + [int(token) for token in document]
            grams += [tuple(padded[i : i + order]) for i in range(len(document))]
        self.counts = {order: Counter(grams)}
        for k in range(order - 1, 0, -1):
            before = defaultdict(set)
            for gram in self.counts[k + 1]:
                before[gram[1:]].add(gram[0])
            self.counts[k] = Counter({gram: len(tokens) for gram, tokens in before.items()})
        self.discounts = {k: discounts(np.array(list(c.values()))) for k, c in self.counts.items()}

    def __call__(self, window: tuple[int, ...]) -> float:
        k = len(window)
        if k == 0:
            return 1 / V
        lower = self(window[1:]) if k > 1 else 1 / V
        after = {g: c for g, c in self.counts[k].items() if g[:-1] == window[:-1]}
        total = sum(after.values())
        if not total:
            return lower
        taken = sum(self._discount(k, c) for c in after.values())
        count = after.get(window, 0)
        return (count - self._discount(k, count)) / total + taken / total * lower

    def _discount(self, k: int, count: int) -> float:
        return (0.0, *self.discounts[k])[min(count, 3)]


def fit(documents: list[np.ndarray], order: int) -> KneserNey:
    return fit_kneser_ney(documents, order=order, vocab_size=V, bos=BOS)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_slow_twin_agrees(order: int, seed: int) -> None:
    documents = random_documents(seed)
    fast, slow = fit(documents, order), Slow(documents, order)
    held_out = random_documents(seed + 100, count=6)
    padded = [np.append([BOS] * (order - 1), d).astype(np.int64) for d in held_out if d.size]
    windows = np.concatenate([np.lib.stride_tricks.sliding_window_view(d, order) for d in padded])
    windows = np.concatenate([windows, np.random.default_rng(seed).integers(0, V, size=(100, order))])
    np.testing.assert_allclose(fast.probabilities(windows), [slow(tuple(w)) for w in windows.tolist()], rtol=1e-12)
    expected = [
        -sum(np.log(slow(tuple(([BOS] * (order - 1) + d.tolist())[i : i + order]))) for i in range(len(d)))
        for d in held_out
    ]
    np.testing.assert_allclose(fast.nats(held_out), expected, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_sum_to_one_in_every_context(order: int) -> None:
    documents = random_documents(3)
    model = fit(documents, order)
    rng = np.random.default_rng(4)
    seen = np.concatenate([d for d in documents if d.size >= order])
    contexts = [rng.integers(0, V, size=order - 1) for _ in range(30)]
    contexts += [seen[i : i + order - 1] for i in range(30)] + [np.full(order - 1, BOS)]
    for context in contexts:
        windows = np.column_stack([np.tile(context, (V, 1)), np.arange(V)]).astype(np.int64)
        probability = model.probabilities(windows)
        assert (probability > 0).all()
        assert probability.sum() == pytest.approx(1.0, abs=1e-12)


def test_an_unseen_context_leaves_the_word_to_the_shorter_one() -> None:
    model = fit(random_documents(5), 3)
    # 9 and 10 never occur: what follows them depends on nothing before.
    tokens = np.arange(V)
    after_unseen = model.probabilities(np.column_stack([np.full((V, 2), 9), tokens]).astype(np.int64))
    after_other = model.probabilities(np.column_stack([np.full(V, 3), np.full(V, 10), tokens]).astype(np.int64))
    np.testing.assert_array_equal(after_unseen, after_other)
    # An unseen token before a seen one: the bigram decides.
    after_bigram = model.probabilities(np.column_stack([np.full(V, 9), np.full(V, 3), tokens]).astype(np.int64))
    assert after_bigram.argmax() == 4
    assert not np.allclose(after_bigram, after_unseen)


def test_two_short_documents_by_hand() -> None:
    # Bigrams of "1 2" and "1 3": bos 1 (twice), 1 2, 1 3. Counts of counts have gaps, so the fallback discounts act.
    model = fit([np.array([1, 2]), np.array([1, 3])], 2)
    # Tokens by the number of different tokens before them: 1, 2 and 3 have one each; discount 0.5, three times.
    unigram = (1 - 0.5) / 3 + 1.5 / 3 / V
    after_one = (1 - 0.5) / 2 + (0.5 + 0.5) / 2 * unigram
    after_bos = (2 - 1.0) / 2 + 1.0 / 2 * unigram
    got = model.probabilities(np.array([[1, 2], [BOS, 1], [5, 3]]))
    np.testing.assert_allclose(got, [after_one, after_bos, unigram], rtol=1e-14)
    np.testing.assert_allclose(model.nats([np.array([1, 2]), np.array([], int)]), [-np.log(after_bos * after_one), 0.0])


def test_discounts_by_hand_and_their_fallback() -> None:
    # n1..n4 = 8, 4, 2, 1: Y = 8 / 16.
    counts = np.repeat([1, 2, 3, 4, 9], [8, 4, 2, 1, 5])
    assert discounts(counts) == pytest.approx((1 - 2 * 0.5 * 4 / 8, 2 - 3 * 0.5 * 2 / 4, 3 - 4 * 0.5 * 1 / 2))
    assert discounts(np.array([1, 1, 2, 3])) == (0.5, 1.0, 1.5)  # no count of four
    assert discounts(np.repeat([1, 2, 3, 4], [10, 1, 9, 1])) == (0.5, 1.0, 1.5)  # the second would be negative


def test_more_text_of_its_kind_makes_it_better() -> None:
    held_out = random_documents(9)
    few, many = (fit(random_documents(8, count=n), 4).nats(held_out).sum() for n in (5, 500))
    assert many < 0.9 * few


@pytest.mark.parametrize("ids", [[BOS], [3, V], [-1]])
def test_ids_that_cannot_be_text_are_refused(ids: list[int]) -> None:
    with pytest.raises(DataError, match=r"document 1: expected ids from 0 to 10 other than the opening mark 0"):
        fit([np.array([1]), np.array(ids)], 3)


def test_nothing_to_count_and_impossible_requests_are_refused() -> None:
    with pytest.raises(DataError, match="at least one token"):
        fit([np.array([], int)], 3)
    with pytest.raises(InputError, match="order must be at least 1"):
        fit([np.array([1])], 0)
    model = fit([np.array([1, 2])], 3)
    with pytest.raises(InputError, match=r"windows must be \(N, 3\), got \(1, 2\)"):
        model.probabilities(np.array([[1, 2]]))
    with pytest.raises(InputError, match=r"token ids must lie in \[0, 11\)"):
        model.probabilities(np.array([[1, 2, V]]))


@pytest.mark.data
def test_real_text_becomes_cheaper_with_each_order() -> None:
    """On unseen question-and-answer pages, longer contexts pay: a sign error anywhere would undo that."""
    pytest.importorskip("zstandard", reason="the data sets are compressed, the extra 'data'")
    folder = Path(os.environ.get("SMALLHOLD_DATA", "")) / "medquad"
    if "SMALLHOLD_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("medquad is missing: set SMALLHOLD_DATA to the folder of the data sets")
    from smallhold.sectors.data_sets import jsonl_files, read_jsonl

    texts = [str(row["answer"]).encode() for row in islice(read_jsonl(jsonl_files(folder)[0]), 200)]
    documents = [np.frombuffer(text, np.uint8).astype(np.int64) + 1 for text in texts]
    train, held_out = documents[::2], documents[1::2]
    bits = [
        fit_kneser_ney(train, order=order, vocab_size=257, bos=0).nats(held_out).sum()
        / sum(map(len, held_out))
        / np.log(2)
        for order in (1, 2, 3, 5)
    ]
    assert all(later < earlier for earlier, later in pairwise(bits)), bits
    assert 3.8 < bits[0] < 4.8  # English letters
    assert bits[-1] < 2.4
