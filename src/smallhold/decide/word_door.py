"""A signal task asked in observation words: the same trunk and the same field, by token ids alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from smallhold.decide.plan import Answer, FieldPlan, answer_field, validate_answer
from smallhold.decide.task import BOS, Task
from smallhold.decide.words import WordState, static_words, words_of_record
from smallhold.device.backends import Session
from smallhold.errors import DecisionError, RecipeError

FloatArray = NDArray[np.float32]


class WordDoor:
    """Words of a task as token ids."""

    def __init__(self, task: Task, plans: Mapping[str, FieldPlan], token: Callable[[str], int | None]) -> None:
        if task.words is None:
            raise RecipeError(f"task {task.name}: its trunk never learnt observation words")
        self.task, self.plans, self.words = task, plans, task.words
        ids = {word: token(word) for word in (BOS, *task.words.vocabulary)}
        absent = [word for word, number in ids.items() if number is None]
        if absent:
            raise RecipeError(f"task {task.name}: the tokenizer lacks {len(absent)} of its words, first {absent[0]}")
        self._ids = {word: number for word, number in ids.items() if number is not None}

    def prefix(self, static: Sequence[float] | FloatArray) -> list[int]:
        """Ids that every stay begins with.

        Raises:
            ShapeError: not one number for each static feature.
        """
        return [self._ids[BOS], *self.spell(static_words(self.words, static))]

    def spell(self, words: Sequence[str]) -> list[int]:
        """Ids of words."""
        return [self._ids[word] for word in words]

    def logits(
        self,
        session: Session,
        minute: NDArray[np.int32],
        code: NDArray[np.int16],
        value: FloatArray,
        static: FloatArray,
        bins: Sequence[int],
    ) -> dict[str, FloatArray]:
        """Deciding logits of a whole record; for evaluation.

        Args:
            session: A new session of the trunk.
            minute: (E,) sorted.
            code: (E,) positions in the parameters.
            value: (E,) in canonical units.
            static: (S,).
            bins: Bins after which a card closes.

        Returns:
            Field name to (len(bins), K), equal to what `WordSession` reads card by card.

        Raises:
            DecisionError: no card closes at one of the bins.
        """
        absent = sorted(set(bins) - set(self.words.card_ends))
        if absent:
            raise DecisionError(f"task {self.task.name}: no card of words closes at {absent}")
        cards = words_of_record(self.words, self.task.signal, minute, code, value)
        ids, at = self.prefix(static), {}
        for end, card in zip(self.words.card_ends, cards, strict=True):
            if end > max(bins):
                break
            ids += self.spell(card)
            at[end] = len(ids) - 1
        places = [at[end] for end in bins]
        return {name: plan.logits_along(session, ids, places) for name, plan in self.plans.items()}


class WordSession:
    """One patient in words: the open card, and the trunk's cache.

    Answers are read by what was fitted on words; see `Task.fields_in_words` for bundles where nothing was.
    """

    def __init__(self, door: WordDoor, trunk: Session, static: FloatArray) -> None:
        self._door, self._trunk = door, trunk
        self._state = WordState(door.words, door.task.signal)
        self._card_end = 0
        trunk.append(door.prefix(static))

    @property
    def length(self) -> int:
        """Tokens that the trunk has read."""
        return self._trunk.length

    def observe(self, code: str, value: float) -> None:
        """Add one reading, in the canonical unit, to the open card.

        Raises:
            InputError: unknown parameter or a value that is not finite.
        """
        self._state.observe(code, value)

    def close_bin(self) -> bool:
        """End a bin; returns whether a card closed, so that there is something new to decide on."""
        words = self._state.close_bin()
        if words:
            self._trunk.append(self._door.spell(words))
            self._card_end = self._state.bins_closed
        return bool(words)

    def decide(self) -> dict[str, Answer]:
        """Answer every field as of the newest card; changes nothing.

        Raises:
            DecisionError: no card was closed yet, or the runtime gave something that is no answer.
        """
        if not self._card_end:
            raise DecisionError(f"task {self._door.task.name}: close a card before deciding")
        answers = {}
        for field in self._door.task.fields_in_words:
            plan = self._door.plans[field.name]
            group = None if field.conformal is None else field.conformal.group_at(self._card_end)
            answer = answer_field(field, plan.logits(self._trunk), group)
            validate_answer(field, answer.probabilities, answer.choice, group)
            answers[field.name] = answer
        return answers
