from __future__ import annotations

import os
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the classifier is fitted with scikit-learn, the extra 'train'")

from scipy.sparse import csr_matrix

from smallhold.decide.ngrams import NGramSpec
from smallhold.errors import DataError, InputError
from smallhold.teach.ngrams import NGramConfig, _unevenness, fit_ngrams, out_of_fold_logits

SMALL = NGramConfig(spec=NGramSpec(word_buckets=1 << 10, char_buckets=1 << 10))
CHOICES = ("migraine", "pneumonia", "psoriasis")


def data(complaints: list) -> tuple[list[str], np.ndarray]:
    return [item.text for item in complaints], np.array([CHOICES.index(item.label) for item in complaints])


def test_words_that_give_the_answer_away_are_learnt(complaints: list) -> None:
    texts, labels = data(complaints)
    model = fit_ngrams(texts[:60], labels[:60], 3, SMALL)
    right = np.array([model.logits(text).argmax() for text in texts[60:]]) == labels[60:]
    assert right.mean() > 0.85  # one label in ten is wrong on purpose, a third of those by chance right
    assert model.logits("itchy scales").argmax() == CHOICES.index("psoriasis")


def test_the_same_texts_give_the_same_bytes(complaints: list) -> None:
    texts, labels = data(complaints)
    assert fit_ngrams(texts, labels, 3, SMALL).to_bytes() == fit_ngrams(texts, labels, 3, SMALL).to_bytes()


def test_two_choices_are_a_matter_of_their_difference(complaints: list) -> None:
    texts, labels = data([item for item in complaints if item.label != "psoriasis"])
    model = fit_ngrams(texts, labels, 2, SMALL)
    logits = np.array([model.logits(text) for text in texts])
    np.testing.assert_allclose(logits[:, 0], -logits[:, 1], atol=1e-5)
    assert (logits.argmax(axis=1) == labels).mean() > 0.85


def test_a_choice_without_texts_is_there_and_never_chosen(complaints: list) -> None:
    texts, labels = data(complaints)
    model = fit_ngrams(texts, labels + 1, 5, SMALL)
    logits = np.array([model.logits(text) for text in texts])
    assert logits.shape == (120, 5)
    assert set(logits.argmax(axis=1)) == {1, 2, 3}
    assert (logits[:, [0, 4]].max(axis=1) < logits.max(axis=1) - 0.5).all()


def test_out_of_fold_logits_come_from_a_model_that_never_saw_the_text(complaints: list) -> None:
    texts, labels = data(complaints[:60])
    logits = out_of_fold_logits(texts, labels, 3, SMALL, folds=3, seed=1)
    np.testing.assert_array_equal(logits, out_of_fold_logits(texts, labels, 3, SMALL, folds=3, seed=1))
    assert logits.shape == (60, 3)
    model = fit_ngrams(texts, labels, 3, SMALL)
    inside = np.array([model.logits(text) for text in texts])
    own = inside[np.arange(60), labels].mean() - logits[np.arange(60), labels].mean()
    assert own > 0.5  # judged by its own teacher, every text looks easier than it is


def test_balance_lifts_a_rare_choice(complaints: list) -> None:
    few = [item for i, item in enumerate(complaints) if item.label != "migraine" or i % 8 == 2]
    texts, labels = data(few)
    weak = NGramConfig(spec=SMALL.spec, strength=0.3)
    plain = fit_ngrams(texts, labels, 3, weak)
    balanced = fit_ngrams(texts, labels, 3, NGramConfig(spec=SMALL.spec, strength=0.3, is_balanced=True))
    margin = [model.logits("headache aura") @ [2, -1, -1] for model in (plain, balanced)]
    assert margin[1] > margin[0] + 0.5


def test_unevenness_by_hand() -> None:
    # Four texts of two choices. Held by: both texts of choice 0; one of each; one of choice 1.
    held = csr_matrix(np.array([[1, 1, 0], [0.5, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32))
    inside, outside = np.array([3, 2, 1]) / 6, np.array([1, 2, 2]) / 5  # one more of everything
    found = _unevenness(held, np.array([2, 2, 7, 7]))  # the choices between have no texts, and no say
    np.testing.assert_allclose(found, np.abs(np.log(inside / outside)), rtol=1e-6)


def test_an_n_gram_that_every_choice_uses_alike_is_held_down(complaints: list) -> None:
    texts, labels = data(complaints)
    spec = NGramSpec(word_buckets=1 << 14, char_buckets=1 << 14)
    noise = []
    for power in (0.0, 1.0):
        model = fit_ngrams(texts, labels, 3, NGramConfig(spec=spec, strength=3.0, ratio_power=power))
        told, filler = (
            np.abs(model.values[[crc32(b"w" + word) % (1 << 14) for word in words]] * model.scale).max(axis=1).mean()
            for words in ((b"itchy", b"cough", b"aura"), (b"days", b"says", b"night"))
        )
        noise.append(filler / told)
        assert np.mean([model.logits(text).argmax() for text in texts] == labels) > 0.85
    assert noise[1] < 0.5 * noise[0]


def test_labels_that_cannot_be_learnt_are_refused(complaints: list) -> None:
    texts, labels = data(complaints)
    with pytest.raises(DataError, match="expected texts of two or more different choices"):
        fit_ngrams(texts, np.zeros(len(texts), np.int64), 3, SMALL)
    with pytest.raises(InputError, match=r"labels: expected \(N,\) in \[0, 2\)"):
        fit_ngrams(texts, labels, 2, SMALL)
    with pytest.raises(InputError, match="folds: expected two or more, got 1"):
        out_of_fold_logits(texts, labels, 3, SMALL, folds=1)
    with pytest.raises(InputError, match=r"n-grams: expected a ratio_power in \[0, 2\] and a strength above 0"):
        NGramConfig(ratio_power=-0.5)


@pytest.mark.data
def test_complaints_of_real_patients_are_sorted_as_well_as_by_tf_idf() -> None:
    if not os.environ.get("SMALLHOLD_DATA"):
        pytest.skip("SMALLHOLD_DATA is not set")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    from smallhold.sectors.splits import Split
    from smallhold.sectors.tasks import find_task
    from smallhold.sectors.text_task import load_examples, split

    task = find_task("triage")
    examples = load_examples(task, Path(os.environ["SMALLHOLD_DATA"]))
    parts = [split(examples, part) for part in (Split.TRAIN, Split.VALIDATION)]
    (texts, fresh), (labels, truth) = (
        [[item.text for item in part] for part in parts],
        [np.array([task.choices.index(item.label) for item in part]) for part in parts],
    )
    model = fit_ngrams(texts, labels, len(task.choices), NGramConfig())
    ours = np.mean([model.logits(text).argmax() for text in fresh] == truth)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    peer = LogisticRegression(C=10, max_iter=1000).fit(words.fit_transform(texts), labels)
    assert ours >= np.mean(peer.predict(words.transform(fresh)) == truth)
    assert ours > 0.95
