"""Fit what turns logits into honest answers, on the calibration split and with the model as it ships.

- Probabilities: the simplest map that the split supports (`calibration_map`).
- Abstention: prediction sets that hold the truth with probability 1 - alpha, for each choice and at each hour by
  itself (`decide/conformal.py`); the field abstains where more than one choice is left.
- Alert threshold: the best event 1, min(sensitivity, PPV), over all horizons together, as the bed uses it. One for each
  hour was tried and gained nothing (docs/concepts/calibration-and-abstention.md).
- Observation words: all of this again on the answers in words, where the trunk has learnt them.
- Comparators: logistic regression on each other number (Platt 1999), and its own event-1 threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from smallhold.bundle.calibration_map import fit_map
from smallhold.decide.conformal import fit_conformal, least_abstention, smallest_count
from smallhold.decide.plan import ABSTAINED, Field, calibrate_logits, choose
from smallhold.decide.task import Comparator, Task
from smallhold.errors import DataError, InputError
from smallhold.evaluate.metrics import best_event1_threshold
from smallhold.evaluate.predict import Predictions
from smallhold.evaluate.risk_coverage import SetCoverage, set_coverage

#: Fewer deaths or survivors than this, and nothing can be fitted.
LEAST_OF_EITHER_OUTCOME = 10
_PROMISE_FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSummary:
    """How a fitted field does on some rows.

    Attributes:
        field: The field.
        coverage: Share of the rows that got an answer.
        error: Share of those answers that were wrong; 0 when none was given.
        model_error: Share of the rows whose most probable choice is wrong: the error without abstaining.
        kept: Coverage of the prediction sets by group and true choice.
    """

    field: Field
    coverage: float
    error: float
    model_error: float
    kept: tuple[SetCoverage, ...]

    @property
    def is_feasible(self) -> bool:
        """Whether every group is large enough for what is promised."""
        return self.field.conformal is not None and self.field.conformal.is_feasible

    def lines(self) -> tuple[str, ...]:
        """The summary in words, a line a fact."""
        field, promise = self.field, self.field.conformal
        found = [
            f"{field.name}: answers {self.coverage:.1%} of the questions with {self.error:.1%} of the answers wrong"
        ]
        if promise is None:
            return (*found, "nothing is promised: the field was not calibrated")
        whom = "each choice" if promise.is_by_choice else "all choices together"
        fewest = min(count for group in promise.groups for count in group.counts)
        found.append(
            f"promised: the set holds the truth with probability {1 - promise.alpha:g}, for {whom}; "
            f"the smallest of its groups has {fewest} and can promise {1 - promise.smallest_alpha:.3f} at most"
        )
        if self.model_error > promise.alpha:
            found.append(
                f"without abstaining {self.model_error:.1%} would be wrong: a rule with {promise.alpha:.1%} wrong "
                f"answers abstains on {least_abstention(self.model_error, promise.alpha):.1%} at least"
            )
        if not promise.is_feasible:
            found.append(
                f"not feasible: {1 - promise.alpha:g} needs {smallest_count(promise.alpha)} of each; "
                "a choice with fewer is never excluded"
            )
        for item in self.kept:
            about = [f"after {item.group}"] if item.group else []
            about += [field.choices[item.choice]] if item.choice is not None else []
            found.append(
                f"{', '.join(about) or 'all'}: n = {item.n}, set holds the truth {item.coverage:.1%} "
                f"({item.low:.1%} to {item.high:.1%}), abstained {1 - item.answered:.1%}, wrong {item.wrong:.1%}"
            )
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was fitted, and how it went.

    Attributes:
        task: The task with fitted fields and comparators.
        summary: The first field on the calibration split, hour by hour; fitted there, so no figure to publish.
    """

    task: Task
    summary: CalibrationSummary

    @property
    def coverage(self) -> float:
        """Share of the calibration questions answered, over all horizons."""
        return self.summary.coverage

    @property
    def error(self) -> float:
        """Share of those answers that were wrong."""
        return self.summary.error

    @property
    def is_feasible(self) -> bool:
        """Whether the split is large enough for what is promised."""
        return self.summary.is_feasible


def calibrate_field(
    field: Field,
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    *,
    alpha: float,
    groups: Sequence[str] | NDArray[Any] | None = None,
    units: ArrayLike | None = None,
    is_by_choice: bool | None = None,
    fits_alert: bool | None = None,
    refit: Callable[[NDArray[np.bool_]], NDArray[np.floating]] | None = None,
    seed: int = 0,
) -> Field:
    """Fit probabilities, prediction sets and the alert threshold of one field, whatever its number of choices.

    Args:
        field: What was fitted of it before is replaced.
        logits: (R, K) of the calibration split alone, from the model as it ships.
        labels: (R,) index of the true choice.
        alpha: The truth may be missing from the prediction set with at most this probability.
        groups: (R,) the promise holds in each of these groups, for example the hour; None for one group.
        units: (R,) patient or text behind each row; None when every row is one of its own.
        is_by_choice: Promise for each choice by itself. None: for two choices yes; for more no, since a choice with
            fewer than `smallest_count(alpha)` rows could never be excluded from any set.
        fits_alert: Fit the alert threshold. None: for two choices.
        refit: Logits (R, K) of all rows, with whatever of them was fitted on this split fitted on the rows (R,) bool
            alone: the promise is then judged by rows that had no part in it. None: nothing of them was fitted here.
        seed: Of the folds that choose the map.

    Raises:
        InputError: alpha is outside (0, 1), or a label is no choice.
        ShapeError: rows differ in number.
        DataError: the rows have a single label: nothing can be fitted.
    """
    truth, scores = np.asarray(labels, dtype=np.int64), np.asarray(logits, dtype=np.float64)
    if scores.ndim != 2 or scores.shape != (len(truth), len(field.choices)) or not np.isfinite(scores).all():
        raise InputError(
            f"field {field.name}: expected finite logits ({len(truth)}, {len(field.choices)}), got {scores.shape}"
        )
    if len(np.unique(truth)) < 2:
        raise DataError(f"field {field.name}: expected two or more different labels on the calibration split")
    is_binary = len(field.choices) == 2
    plain = Field(name=field.name, choices=field.choices, positive=field.positive)
    fitted = fit_map(plain, scores, truth, units=units, seed=seed).field
    p = calibrate_logits(fitted, scores)
    promise = fit_conformal(
        # Two choices: a monotone map keeps the ranks that the promise rests on. More: its biases would be judged by the
        # rows that fitted them, and the promise would be kept too rarely.
        p if is_binary and refit is None else _cross_fitted(plain, scores, truth, units, refit, seed),
        truth,
        alpha=alpha,
        groups=groups,
        units=units,
        is_by_choice=is_binary if is_by_choice is None else is_by_choice,
    )
    threshold = 1.0
    if is_binary if fits_alert is None else fits_alert:
        positive = field.choices.index(field.positive)
        # Rounded down, so that the answer the threshold was read from still alerts.
        threshold = _rounded_down(best_event1_threshold(truth == positive, p[:, positive]))
    return replace(fitted, conformal=promise, alert_threshold=threshold)


def _cross_fitted(
    plain: Field,
    scores: NDArray[np.float64],
    truth: NDArray[np.int64],
    units: ArrayLike | None,
    refit: Callable[[NDArray[np.bool_]], NDArray[np.floating]] | None,
    seed: int,
) -> NDArray[np.float64]:
    """(R, K) probabilities of every row by a map, and logits, that were fitted without its unit."""
    unit = np.arange(len(truth)) if units is None else np.unique(np.asarray(units), return_inverse=True)[1]
    fold = np.random.default_rng([seed, 5]).permutation(unit.max() + 1)[unit] % _PROMISE_FOLDS
    p = np.empty_like(scores)
    for part in range(_PROMISE_FOLDS):
        mine = fold == part
        # A split so small that the others hold a single label cannot be crossed.
        rest = ~mine if len(np.unique(truth[~mine])) > 1 else np.ones_like(mine)
        fresh = scores if refit is None else np.asarray(refit(rest), dtype=np.float64)
        fitted = fit_map(plain, fresh[rest], truth[rest], units=unit[rest], seed=seed).field
        p[mine] = calibrate_logits(fitted, fresh[mine])
    return p


def summarize(
    field: Field,
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    *,
    groups: Sequence[str] | NDArray[Any] | None = None,
) -> CalibrationSummary:
    """How a field does on rows of any split.

    Args:
        field: A fitted field.
        logits: (R, K).
        labels: (R,) index of the true choice.
        groups: (R,) counted by themselves; None for one group. A row whose group was not calibrated gets the
            thresholds that hold in every group, as on a device.
    """
    truth = np.asarray(labels, dtype=np.int64)
    p = calibrate_logits(field, np.asarray(logits))
    names = np.full(len(truth), "") if groups is None else np.asarray(groups).astype(str)
    chosen, sets = np.full(len(truth), ABSTAINED), np.ones(p.shape, dtype=bool)
    for name in np.unique(names).tolist():
        part = names == name
        chosen[part] = choose(field, p[part], name)
        if field.conformal is not None:
            sets[part] = field.conformal.sets(p[part], name)
    is_given = chosen != ABSTAINED
    is_by_choice = field.conformal is None or field.conformal.is_by_choice
    return CalibrationSummary(
        field=field,
        coverage=float(is_given.mean()),
        error=float((chosen != truth)[is_given].mean()) if is_given.any() else 0.0,
        model_error=float((p.argmax(axis=1) != truth).mean()),
        kept=set_coverage(sets, truth, chosen, groups=names, is_by_choice=is_by_choice),
    )


def calibrate(task: Task, predictions: Predictions, *, max_error: float) -> Calibration:
    """Fit everything.

    Args:
        task: The task; its first field is fitted.
        predictions: Of the calibration split alone.
        max_error: Of those who die, and of those who live, at most this share is told the other at any horizon,
            0 < max_error < 1.

    Raises:
        DataError: the split has fewer than ten patients of either outcome: nothing can be fitted on it.
    """
    died = predictions.died
    if min(died.sum(), (~died).sum()) < LEAST_OF_EITHER_OUTCOME:
        raise DataError(
            f"calibration split: expected at least {LEAST_OF_EITHER_OUTCOME} patients of either outcome, "
            f"got {int(died.sum())} who died and {int((~died).sum())} who lived"
        )
    margins, horizons = predictions.numbers["shipped"], predictions.horizons
    field = calibrate_margins(task.fields[0], margins, died, horizons, alpha=max_error)
    word_fields: tuple[Field, ...] = ()
    if "words" in predictions.numbers:
        in_words = calibrate_margins(task.fields[0], predictions.numbers["words"], died, horizons, alpha=max_error)
        word_fields = (in_words, *task.fields[1:])
    comparators = {
        name: {
            str(hour): fit_comparator(numbers[:, i], died)
            for i, hour in enumerate(predictions.horizons)
            if not np.isnan(numbers[:, i]).any()
        }
        for name, numbers in predictions.numbers.items()
        if name not in ("shipped", "words")  # read as the device reads them: by the field itself
    }
    fitted = replace(
        task,
        fields=(field, *task.fields[1:]),
        word_fields=word_fields,
        comparators={k: v for k, v in comparators.items() if v},
    )
    rows = _rows(field, margins, died, horizons)
    return Calibration(fitted, summarize(field, rows.logits, rows.labels, groups=rows.hours))


def calibrate_margins(
    field: Field,
    margins: NDArray[np.float64],
    died: NDArray[np.bool_],
    horizons: Sequence[int],
    *,
    alpha: float,
) -> Field:
    """Fit a field with two choices on patients who were each asked at every horizon.

    Args:
        field: What was fitted of it before is replaced.
        margins: (N, H) log-odds of the positive choice.
        died: (N,).
        horizons: (H,) hours: the groups of the promise.
        alpha: See `calibrate_field`.

    Raises:
        InputError: alpha is outside (0, 1), or a margin is not finite.
        DataError: all died or all lived: nothing can be fitted.
    """
    rows = _rows(field, margins, died, horizons)
    return calibrate_field(field, rows.logits, rows.labels, alpha=alpha, groups=rows.hours, units=rows.patients)


@dataclass(frozen=True, slots=True)
class _Rows:
    """(N, H) margins as N x H rows."""

    logits: NDArray[np.float64]
    labels: NDArray[np.int64]
    hours: NDArray[np.str_]
    patients: NDArray[np.int64]


def _rows(field: Field, margins: NDArray[np.float64], died: NDArray[np.bool_], horizons: Sequence[int]) -> _Rows:
    positive = field.choices.index(field.positive)
    logits = np.zeros((margins.size, 2))
    logits[:, positive] = margins.reshape(-1)
    return _Rows(
        logits,
        np.where(np.repeat(died, len(horizons)), positive, 1 - positive),
        np.tile(np.array(horizons).astype(str), len(died)),
        np.repeat(np.arange(len(died)), len(horizons)),
    )


def fit_comparator(number: NDArray[np.float64], died: NDArray[np.bool_]) -> Comparator:
    """Probability and decision of one model or score at one hour, from its number (N,) and the outcome (N,)."""
    model = LogisticRegression(C=np.inf).fit(number[:, None], died)
    scale, offset = float(model.coef_[0, 0]), float(model.intercept_[0])
    return Comparator(scale, offset, best_event1_threshold(died, expit(scale * number + offset)))


def _rounded_down(share: float) -> float:
    """Six decimals, never above the share itself."""
    return float(np.clip(np.floor(share * 1e6) / 1e6, 0, 1))
