"""The simple thing beside a text task: TF-IDF and logistic regression, measured on the same rows.

It is what a report compares the model with, and it shows that a task's rows are read as they should be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from smallhold.errors import DataError
from smallhold.sectors.text_task import TextExample

STRENGTH = 10.0
"""C of the logistic regression: fixed, so that the baseline is the same everywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScore:
    """How well texts were sorted.

    Attributes:
        num_texts: Texts scored.
        accuracy: Share of right answers.
        macro_f1: Mean F1 of the choices that occur, as an answer or as a label, each choice alike.
        most_frequent: Share of the label that is most frequent among the texts: what no reading at all would reach.
    """

    num_texts: int
    accuracy: float
    macro_f1: float
    most_frequent: float


def fit_baseline(training: Sequence[TextExample]) -> Pipeline:
    """TF-IDF of words and pairs of words (sublinear counts, L2 norm), then multinomial logistic regression.

    Args:
        training: Examples of the training split.

    Raises:
        DataError: the examples have fewer than two labels.
    """
    if len({example.label for example in training}) < 2:
        raise DataError("baseline: expected training texts with at least two labels")
    pipeline = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        LogisticRegression(C=STRENGTH, max_iter=1000),
    )
    return pipeline.fit([example.text for example in training], [example.label for example in training])


def baseline_answers(baseline: Pipeline, examples: Sequence[TextExample]) -> list[str]:
    """The most probable label of every text."""
    return [str(label) for label in baseline.predict([example.text for example in examples])]


def score_answers(answers: Sequence[str], labels: Sequence[str]) -> TextScore:
    """Accuracy and macro-F1, as scikit-learn's `f1_score(average="macro", zero_division=0)` defines it.

    Raises:
        DataError: nothing to score, or not one answer for each label.
    """
    if not labels or len(answers) != len(labels):
        raise DataError(f"score: expected as many answers as labels, at least one, got {len(answers)}, {len(labels)}")
    answer, label = np.array(answers), np.array(labels)
    occurring, counts = np.unique(label, return_counts=True)
    return TextScore(
        num_texts=len(labels),
        accuracy=float(np.mean(answer == label)),
        macro_f1=float(np.mean([_f1(answer == choice, label == choice) for choice in np.union1d(occurring, answer)])),
        most_frequent=float(counts.max() / len(labels)),
    )


def _f1(answered: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> float:
    return float(2 * np.sum(answered & labelled) / (np.sum(answered) + np.sum(labelled)))
