"""How much a trained model gives away, measured: lower bounds to hold against a claimed epsilon.

An audit can show that a claim is wrong. It cannot show that a claim is right: another attack may see more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from smallhold.errors import InputError, ShapeError
from smallhold.privacy.checks import check_count, check_vector

Scores = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]
_MAX_EPSILON = 64.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditResult:
    """A lower bound on epsilon and the guesses behind it.

    Attributes:
        epsilon: With the confidence below, the training is not (epsilon', delta)-DP for any epsilon' below this.
        claimed: The epsilon that is claimed; None when none is.
        delta: At which delta.
        confidence: For example .95.
        canaries: How many records were included by a coin each.
        guesses: For how many of them the attack says "in" or "out".
        correct: How many of these guesses are right.
    """

    epsilon: float
    claimed: float | None
    delta: float
    confidence: float
    canaries: int
    guesses: int
    correct: int

    @property
    def has_passed(self) -> bool:
        """Whether the lower bound leaves the claim standing; without a claim there is nothing to refute."""
        return self.claimed is None or self.epsilon <= self.claimed


def audit_one_run(
    scores: Scores,
    is_included: Flags,
    *,
    guesses: int,
    delta: float,
    confidence: float = 0.95,
    claimed: float | None = None,
) -> AuditResult:
    """Bound epsilon from below with one training run.

    Source: Steinke, Nasr, Jagielski 2023, "Privacy Auditing with One (1) Training Run", arXiv:2305.08846, algorithm 1
    and theorem 5.2 with its delta term (appendix D).

    Each of the m canaries was included in the training by an independent fair coin. The attack guesses "in" for the
    highest scores and "out" for the lowest, and abstains between.

    Args:
        scores: (m,) finite; higher means likelier included.
        is_included: (m,) bool, the coins.
        guesses: How many in all, an even number up to m, fixed before looking: trying several and reporting the best
            needs a correction.
        delta: Of the claim.
        confidence: Of the bound, above 0, below 1.
        claimed: The epsilon to hold it against.

    Raises:
        ShapeError: scores and coins do not match.
        InputError: an argument is out of range.
    """
    _check_scores(scores, is_included)
    if check_count(guesses, "guesses", at_least=2, at_most=scores.size) % 2:
        raise InputError(f"guesses: expected an even number, got {guesses}")
    if not 0 < confidence < 1:
        raise InputError(f"confidence: expected above 0 and below 1, got {confidence!r}")
    order = np.argsort(scores, kind="stable")
    half = guesses // 2
    correct = int(np.count_nonzero(~is_included[order[:half]]) + np.count_nonzero(is_included[order[-half:]]))
    epsilon = epsilon_lower_bound(scores.size, guesses, correct, delta=delta, confidence=confidence)
    return AuditResult(
        epsilon=epsilon,
        claimed=claimed,
        delta=delta,
        confidence=confidence,
        canaries=scores.size,
        guesses=guesses,
        correct=correct,
    )


def guess_p_value(canaries: int, guesses: int, correct: int, *, epsilon: float, delta: float) -> float:
    """How likely so many right guesses, or more, are at most under (epsilon, delta)-DP.

    Source: Steinke, Nasr, Jagielski 2023, theorem 5.2: P[W >= v] + 2 m delta max_i P[v > W >= v - i] / i, with W
    binomial of `guesses` trials and success e^epsilon / (1 + e^epsilon).

    Args:
        canaries: m.
        guesses: r, at most m.
        correct: v, at most r.
        epsilon: 0 or more.
        delta: From 0 to 1.
    """
    check_count(guesses, "guesses", at_most=canaries)
    check_count(correct, "correct", at_least=0, at_most=guesses)
    if not 0 <= epsilon < math.inf or not 0 <= delta <= 1:
        raise InputError(f"epsilon, delta: expected 0 or more, and 0 to 1, got {epsilon!r}, {delta!r}")
    probabilities = _binomial(guesses, epsilon)
    beta = float(np.sum(probabilities[correct:]))
    if correct == 0 or delta == 0:
        return min(beta, 1.0)
    below = np.cumsum(probabilities[correct - 1 :: -1])  # P[v > W >= v - i] for i = 1 ... v
    alpha = float(np.max(below / np.arange(1, correct + 1)))
    return min(beta + 2 * canaries * delta * alpha, 1.0)


def epsilon_lower_bound(canaries: int, guesses: int, correct: int, *, delta: float, confidence: float = 0.95) -> float:
    """The largest epsilon (to 1e-6, rounded down) that so many right guesses refute; 0 when they refute none."""
    level = 1 - confidence

    def is_refuted(epsilon: float) -> bool:
        return guess_p_value(canaries, guesses, correct, epsilon=epsilon, delta=delta) < level

    if not is_refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while high < _MAX_EPSILON and is_refuted(high):
        low, high = high, high * 2
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if is_refuted(middle) else (low, middle)
    return low


@dataclass(frozen=True, slots=True)
class MembershipInference:
    """How well scores tell members from others.

    Attributes:
        auc: Probability that a member scores above a non-member, ties half; .5 is chance.
        true_positive_rate: Members found at the threshold that takes at most `false_positive_rate` of the others.
        false_positive_rate: As asked for.
    """

    auc: float
    true_positive_rate: float
    false_positive_rate: float


def measure_membership(scores: Scores, is_member: Flags, *, false_positive_rate: float = 0.01) -> MembershipInference:
    """Membership inference from scores.

    Source: Carlini et al. 2022, "Membership Inference Attacks From First Principles", arXiv:2112.03570: the
    true-positive rate at a low false-positive rate says what an average hides.

    Args:
        scores: (n,) finite; higher means likelier a member (for example the negative loss).
        is_member: (n,) bool, some of either.
        false_positive_rate: From 0 to 1. With fewer than 1 / rate non-members, no false positive is allowed.
    """
    _check_scores(scores, is_member)
    if not 0 <= false_positive_rate <= 1:
        raise InputError(f"false_positive_rate: expected 0 to 1, got {false_positive_rate!r}")
    members, others = np.sort(scores[is_member]), np.sort(scores[~is_member])
    below = np.searchsorted(others, members, side="left") + np.searchsorted(others, members, side="right")
    auc = float(np.sum(below)) / 2 / (members.size * others.size)
    allowed = math.floor(false_positive_rate * others.size + 1e-9)
    if allowed >= others.size:
        return MembershipInference(auc, 1.0, false_positive_rate)
    threshold = others[others.size - 1 - allowed]  # strictly above it lie at most `allowed` of the others
    found = members.size - np.searchsorted(members, threshold, side="right")
    return MembershipInference(auc, float(found) / members.size, false_positive_rate)


def canary_exposure(canary_losses: Scores, candidate_losses: Scores) -> npt.NDArray[np.float64]:
    """How far planted secrets stand out among secrets that could have been planted.

    Source: Carlini et al. 2019, "The Secret Sharer", arXiv:1802.08232, definition 5: log2(candidates) - log2(rank).

    Args:
        canary_losses: (c,) the model's loss on each planted secret.
        candidate_losses: (n,) its losses on fresh secrets of the same form.

    Returns:
        (c,) bits; log2(n + 1) for a canary below every candidate, near 1 on average for one that was never seen. Ties
        count against exposure.
    """
    check_vector(canary_losses, "canary_losses")
    check_vector(candidate_losses, "candidate_losses")
    rank = 1 + np.searchsorted(np.sort(candidate_losses), canary_losses, side="right")
    return np.asarray(np.log2(candidate_losses.size + 1) - np.log2(rank), dtype=np.float64)


def _binomial(trials: int, epsilon: float) -> npt.NDArray[np.float64]:
    """(trials + 1,) probabilities of so many successes of probability 1 / (1 + e^-epsilon), by logarithms."""
    log_success, log_failure = -np.log1p(np.exp(-epsilon)), -np.logaddexp(0.0, epsilon)
    counts = np.arange(trials + 1)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))])
    log_ways = log_factorials[trials] - log_factorials[counts] - log_factorials[trials - counts]
    return np.asarray(np.exp(log_ways + counts * log_success + (trials - counts) * log_failure), dtype=np.float64)


def _check_scores(scores: Scores, flags: Flags) -> None:
    check_vector(scores, "scores")
    if flags.dtype != np.bool_ or flags.shape != scores.shape:
        raise ShapeError(f"flags: expected bool {scores.shape} like the scores, got {flags.dtype} {flags.shape}")
    if flags.all() or not flags.any():
        raise InputError("flags: expected some True and some False, otherwise there is nothing to tell apart")
