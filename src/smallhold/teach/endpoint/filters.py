"""Which rows are asked about, and which labels are kept."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smallhold.sectors.text_task import normalised_text
from smallhold.teach.endpoint.answers import Sample
from smallhold.teach.endpoint.recipe import FilterChoice

_SHINGLE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A label that passed.

    Attributes:
        choice: Its place among the choices.
        agreement: Share of the samples that named it.
        probabilities: (K,) or None.
        rationale: Of the first sample that named it.
    """

    choice: int
    agreement: float
    probabilities: NDArray[np.float64] | None
    rationale: str


def find_repeats(texts: Sequence[str], threshold: float) -> list[int | None]:
    """For each text the earlier one that it repeats, or None for those to keep.

    Two texts are near duplicates when the Jaccard similarity of their sets of five-character shingles, after
    `normalised_text`, reaches the threshold. Candidates come from an index over each text's rarest shingles, which
    misses none: sets with similarity t share one of the first |x| - ceil(t |x|) + 1 in any common order.

    Source: Chaudhuri, Ganti, Kaushik 2006 (ICDE), prefix filtering; Bayardo, Ma, Srikant 2007 (WWW).

    Args:
        texts: N texts, in the order of preference.
        threshold: From 0.5 to 1; 1 compares normalised texts alone; 0 finds nothing.

    Returns:
        N entries. A text is compared with texts that are kept, so a chain of small changes keeps its ends.
    """
    found: list[int | None] = [None] * len(texts)
    if not threshold:
        return found
    normalised = [normalised_text(text) for text in texts]
    first: dict[str, int] = {}
    for i, text in enumerate(normalised):
        if first.setdefault(text, i) != i:
            found[i] = first[text]
    if threshold == 1:
        return found
    shingles = {i: _shingles(normalised[i]) for i in range(len(texts)) if found[i] is None}
    count = Counter(code for codes in shingles.values() for code in codes.tolist())
    index: dict[int, list[int]] = defaultdict(list)
    for i, codes in shingles.items():
        ordered = sorted(codes.tolist(), key=lambda code: (count[code], code))
        prefix = ordered[: len(ordered) - math.ceil(threshold * len(ordered) - 1e-9) + 1]
        candidates = sorted({other for code in prefix for other in index[code]})
        repeated = next((o for o in candidates if _jaccard(codes, shingles[o]) >= threshold), None)
        if repeated is not None:
            found[i] = repeated
            continue
        for code in prefix:
            index[code].append(i)
    return found


def _shingles(text: str) -> NDArray[np.uint64]:
    """Sorted codes of all runs of five characters; a shorter text is one run."""
    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    if len(letters) < _SHINGLE:
        letters = np.concatenate([letters, np.zeros(_SHINGLE - len(letters), dtype=np.uint64)])
    code = np.zeros(len(letters) - _SHINGLE + 1, dtype=np.uint64)
    for j in range(_SHINGLE):  # an odd multiplier modulo 2**64: different runs hardly ever share a code
        code = code * np.uint64(0x9E3779B97F4A7C15) + letters[j : len(letters) - _SHINGLE + 1 + j]
    return np.unique(code)


def _jaccard(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def judge(answers: Sequence[Sample | str], num_choices: int, filters: FilterChoice, *, is_soft: bool) -> Label | str:
    """The label of one row, or why it has none.

    Args:
        answers: A sample or a named failure for each time that was asked; at least one.
        num_choices: K.
        filters: What is kept.
        is_soft: The votes are the probabilities, where the samples bring none.

    Returns:
        The label, or the commonest failure where no answer is usable, `disagreement` where too few name the same
        label or two are named equally often, or `unsure` where its probability is too low.
    """
    samples = [answer for answer in answers if isinstance(answer, Sample)]
    if not samples:
        return Counter(str(answer) for answer in answers).most_common(1)[0][0]
    votes = np.bincount([sample.choice for sample in samples], minlength=num_choices)
    given = [sample.probabilities for sample in samples if sample.probabilities is not None]
    shares: NDArray[np.float64] = np.mean(given, axis=0) if given else votes / votes.sum()
    choice = int(np.argmax(shares))
    agreement = float(votes[choice] / len(answers))
    is_tie = not given and int((votes == votes[choice]).sum()) > 1
    if is_tie or agreement < filters.agreement:
        return "disagreement"
    probabilities = shares if given or is_soft else None
    if probabilities is not None and probabilities[choice] < filters.confidence:
        return "unsure"
    reason = next((sample.rationale for sample in samples if sample.choice == choice), "")
    return Label(choice=choice, agreement=agreement, probabilities=probabilities, rationale=reason)
