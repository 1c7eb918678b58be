"""Which distributions of a teacher a student can be held to when their vocabularies differ.

Supported: the same vocabulary, and a student whose vocabulary is part of the teacher's (trimmed, `trim_vocabulary`).
The teacher then reads the student's tokens under its own ids, and its logits are restricted to the student's rows:
after the softmax that is exactly P(token | the token is one of the student's). Everything else has no exact map and is
refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from smallhold.errors import RecipeError

_ADVICE = (
    "teach by text instead: let the teacher label or write texts, and train the student on them with its own tokens"
)


@dataclass(frozen=True, slots=True, eq=False)
class VocabularyMap:
    """Where the student's tokens lie in the teacher's vocabulary.

    Attributes:
        teacher_ids: (V,) int64 id in the teacher of each of the student's tokens.
        is_identity: The two vocabularies are the same.
    """

    teacher_ids: Tensor
    is_identity: bool

    def to_teacher(self, ids: Tensor) -> Tensor:
        """The student's ids (...) as the teacher's."""
        return ids if self.is_identity else self.teacher_ids[ids]

    def restrict(self, logits: Tensor) -> Tensor:
        """The teacher's logits (..., V') as logits (..., V) over the student's tokens."""
        is_whole = self.is_identity and logits.shape[-1] == len(self.teacher_ids)
        return logits if is_whole else logits[..., self.teacher_ids]

    def of_student(self, logits: Tensor) -> Tensor:
        """The student's logits without rows that no token of its tokenizer has (padding of the embedding)."""
        return logits[..., : len(self.teacher_ids)]


def map_vocabularies(teacher: Tokenizer, student: Tokenizer) -> VocabularyMap:
    """Find the exact map.

    A trimmed student spells some words with more tokens than the teacher would; the teacher is then asked about a
    spelling that it seldom saw, and is a little less sure of itself. That is a cost in quality, not an error.

    Raises:
        RecipeError: there is none; says why and what to do instead.
    """
    ours, theirs = student.get_vocab(with_added_tokens=True), teacher.get_vocab(with_added_tokens=True)
    missing = sorted(token for token in ours if token not in theirs)
    if missing:
        raise RecipeError(
            f"vocabulary: {len(missing)} of the student's {len(ours)} tokens are not the teacher's, for example "
            f"{missing[0]!r}",
            hint=_ADVICE,
        )
    own, other = json.loads(student.to_str()), json.loads(teacher.to_str())
    for step in ("normalizer", "pre_tokenizer", "decoder"):
        if own[step] != other[step]:
            raise RecipeError(f"vocabulary: teacher and student differ in their {step}", hint=_ADVICE)
    if not _is_subsequence(_merges(own), _merges(other)):
        raise RecipeError("vocabulary: the student's merges are not the teacher's in the same order", hint=_ADVICE)
    if sorted(ours.values()) != list(range(len(ours))):
        raise RecipeError("vocabulary: the student's ids have gaps", hint="trim the vocabulary with trim_vocabulary")
    ids = torch.empty(len(ours), dtype=torch.int64)
    for token, i in ours.items():
        ids[i] = theirs[token]
    return VocabularyMap(ids, ours == theirs)


def _merges(form: dict[str, Any]) -> list[tuple[str, ...]]:
    merges = form["model"].get("merges", [])
    return [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in merges]


def _is_subsequence(part: list[tuple[str, ...]], whole: list[tuple[str, ...]]) -> bool:
    rest = iter(whole)
    return all(merge in rest for merge in part)
