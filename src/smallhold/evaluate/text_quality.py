"""Figures of a task that reads texts: every model's answers on the same texts and the same resamples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smallhold.decide.plan import ABSTAINED, Field, calibrate_logits, choose
from smallhold.errors import DataError
from smallhold.evaluate import metrics
from smallhold.evaluate.bootstrap import Metric, Resampled, resample
from smallhold.evaluate.calibration_noise import calibration_noise
from smallhold.evaluate.promise import describe_promise, promise_rows
from smallhold.evaluate.result import ClassRow, Confusion, Curves, Difference, Promise, Row, SubgroupRow
from smallhold.evaluate.risk_coverage import aurc, risk_coverage_curve, set_coverage
from smallhold.sectors.text_task import TextExample

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: A label with fewer texts than this gets no figures of its own, nor does a language.
LEAST_OF_A_KIND = 10
_MOST_CONFUSIONS = 12
_COMPARED = ("accuracy", "macro_f1")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Texts:
    """What is asked about.

    Attributes:
        choices: K labels.
        truth: (N,) index of each text's label.
        groups: (N,) copies of one text have one group, and are drawn together.
        languages: (N,).
    """

    choices: tuple[str, ...]
    truth: Ints
    groups: NDArray[np.str_]
    languages: NDArray[np.str_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """What one model answers.

    Attributes:
        choice: (N,) index of the most probable label.
        probabilities: (N, K), None for a path whose logits were never calibrated by themselves.
        given: (N,) index of the label that is given, -1 where the model abstains; None for what never abstains.
        sets: (N, K) prediction sets; None where nothing was promised.
    """

    choice: Ints
    probabilities: Floats | None = None
    given: Ints | None = None
    sets: Bools | None = None


def texts_of(examples: Sequence[TextExample], choices: Sequence[str]) -> Texts:
    """Examples as arrays.

    Raises:
        DataError: a label is not among the choices of the bundle.
    """
    unknown = sorted({example.label for example in examples} - set(choices))
    if unknown:
        raise DataError(
            f"labels: expected the {len(choices)} choices of the bundle's task, got {', '.join(unknown[:5])} as well",
            hint="the bundle was made for another version of this task; build it again",
        )
    place = {choice: index for index, choice in enumerate(choices)}
    return Texts(
        choices=tuple(choices),
        truth=np.array([place[example.label] for example in examples], dtype=np.int64),
        groups=np.array([f"{example.data_set}|{example.group}" for example in examples]),
        languages=np.array([example.language for example in examples]),
    )


def read_answers(field: Field, logits: NDArray[Any]) -> Answers:
    """Read deciding logits (N, K) as the device does."""
    probabilities = calibrate_logits(field, logits)
    return Answers(
        choice=probabilities.argmax(axis=1),
        probabilities=probabilities,
        given=choose(field, probabilities),
        sets=None if field.conformal is None else field.conformal.sets(probabilities),
    )


def text_rows(
    texts: Texts, answers: Mapping[str, Answers], *, num_resamples: int, seed: int
) -> tuple[list[Row], dict[tuple[str, str], Resampled]]:
    """One row a model, and (model, metric) to the metric on every resample for differences."""
    rows: list[Row] = []
    resampled: dict[tuple[str, str], Resampled] = {}
    for model, said in answers.items():
        row: Row = {"horizon_h": None, "model": model, "n": len(texts.truth)}
        for name, (metric, arrays) in _figures(texts.truth, said).items():
            found = resample(metric, *arrays, num_resamples=num_resamples, seed=seed, groups=texts.groups)
            resampled[model, name] = found
            row[name] = found.interval().to_json()  # type: ignore[literal-required]
        if said.probabilities is not None:
            row["ece_noise"] = calibration_noise(said.probabilities.max(axis=1), seed=seed)
        rows.append(row)
    return rows, resampled


def _figures(truth: Ints, said: Answers) -> dict[str, tuple[Metric, tuple[Any, ...]]]:
    figures: dict[str, tuple[Metric, tuple[Any, ...]]] = {
        "accuracy": (metrics.accuracy, (truth, said.choice)),
        "macro_f1": (metrics.macro_f1, (truth, said.choice)),
    }
    if said.probabilities is not None:
        p_of_truth = np.clip(said.probabilities[np.arange(len(truth)), truth], 0, 1)
        confidence = np.clip(said.probabilities.max(axis=1), 0, 1)
        figures["nll"] = (metrics.negative_log_likelihood, (p_of_truth,))
        figures["ece"] = (metrics.expected_calibration_error, (said.choice == truth, confidence))
    if said.given is not None:
        figures["coverage"] = (metrics.coverage, (said.given == ABSTAINED,))
    return figures


def text_differences(
    resampled: Mapping[tuple[str, str], Resampled], pairs: Iterable[tuple[str, str]]
) -> list[Difference]:
    """Paired differences in accuracy and macro-F1 of the pairs that were both measured."""
    found: list[Difference] = []
    for first, second in pairs:
        item: Difference = {"horizon_h": None, "models": [first, second]}
        for name in _COMPARED:
            one, other = resampled.get((first, name)), resampled.get((second, name))
            if one is not None and other is not None:
                item[name] = one.minus(other).interval().to_json()  # type: ignore[literal-required]
        if "accuracy" in item:
            found.append(item)
    return found


def language_rows(texts: Texts, shipped: Answers, *, num_resamples: int, seed: int) -> list[SubgroupRow]:
    """The shipped model by language; none when there is one language only."""
    languages = np.unique(texts.languages)
    rows: list[SubgroupRow] = []
    for language in languages if len(languages) > 1 else []:
        member = texts.languages == language
        row: SubgroupRow = {
            "horizon_h": None,
            "model": "shipped",
            "attribute": "language",
            "subgroup": str(language),
            "n": int(member.sum()),
            "is_too_small": bool(member.sum() < LEAST_OF_A_KIND),
        }
        if not row["is_too_small"]:
            part = Texts(
                choices=texts.choices,
                truth=texts.truth[member],
                groups=texts.groups[member],
                languages=texts.languages[member],
            )
            said = Answers(
                choice=shipped.choice[member],
                probabilities=None if shipped.probabilities is None else shipped.probabilities[member],
                given=None if shipped.given is None else shipped.given[member],
            )
            (figures,), _ = text_rows(part, {"shipped": said}, num_resamples=num_resamples, seed=seed)
            row = {**figures, **row}
        rows.append(row)
    return rows


def class_rows(texts: Texts, shipped: Answers) -> list[ClassRow]:
    """Precision, recall and F1 of every label, as the shipped model answers; the commonest labels first."""
    rows: list[ClassRow] = []
    for index, label in enumerate(texts.choices):
        is_truth, is_answer = texts.truth == index, shipped.choice == index
        hits, n, answered = int((is_truth & is_answer).sum()), int(is_truth.sum()), int(is_answer.sum())
        row: ClassRow = {"label": label, "n": n, "precision": None, "recall": None, "f1": None}
        if n >= LEAST_OF_A_KIND:
            row["precision"] = hits / answered if answered else None
            row["recall"], row["f1"] = hits / n, 2 * hits / (n + answered)
        rows.append(row)
    return sorted(rows, key=lambda row: -row["n"])


def top_confusions(texts: Texts, shipped: Answers) -> list[Confusion]:
    """The commonest wrong answers, at least two of a kind, most first."""
    is_wrong = shipped.choice != texts.truth
    pairs, counts = np.unique(
        np.column_stack([texts.truth[is_wrong], shipped.choice[is_wrong]]), axis=0, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")[:_MOST_CONFUSIONS]
    return [
        {"truth": texts.choices[pairs[i, 0]], "answer": texts.choices[pairs[i, 1]], "n": int(counts[i])}
        for i in order
        if counts[i] > 1
    ]


def text_curves(texts: Texts, answers: Mapping[str, Answers]) -> dict[str, dict[str, Curves]]:
    """How confidence relates to being right, for drawing."""
    curves: dict[str, Curves] = {}
    for model, said in answers.items():
        if said.probabilities is not None:
            confidence = np.clip(said.probabilities.max(axis=1), 0, 1)
            is_wrong = said.choice != texts.truth
            curves[model] = {
                "reliability": metrics.reliability(~is_wrong, confidence).tolist(),
                "risk_coverage": metrics.thin_curve(risk_coverage_curve(is_wrong, confidence)).tolist(),
                "aurc": aurc(is_wrong, confidence),
            }
    return {"": curves} if curves else {}


def text_promise(field: Field, texts: Texts, shipped: Answers) -> Promise | None:
    """How the promise of the field was kept, by true label where it was made by label; None where none was made."""
    if field.conformal is None or shipped.sets is None or shipped.given is None:
        return None
    found = set_coverage(shipped.sets, texts.truth, shipped.given, is_by_choice=field.conformal.is_by_choice)
    return describe_promise(field.conformal, promise_rows(field, found, horizon_h=None))
