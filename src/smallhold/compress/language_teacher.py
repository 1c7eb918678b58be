"""A language model as teacher of a smaller one: what it makes of the student's texts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from smallhold.compress.cross_tokenizer import CrossTokenizer, Reading
from smallhold.learn.model import Trunk


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """What a teacher made of B windows of T + 1 of the student's tokens.

    Attributes:
        reading: How it read them; None: token for token.
        states: (B, T, D') its final states, each to foretell the next of the student's tokens.
    """

    reading: Reading | None
    states: Tensor

    @property
    def aside(self) -> tuple[Tensor, ...]:
        """What `LanguageTeacher.logits` needs beside the states, (B, T) each."""
        return () if self.reading is None else self.reading.aside

    @property
    def is_taught(self) -> Tensor | None:
        """(B, T) bool: the teacher has something to say; None: everywhere."""
        return None if self.reading is None else self.reading.is_taught

    @property
    def is_level(self) -> Tensor | None:
        """(B, T) bool: both have read the same text; None: everywhere."""
        return None if self.reading is None else self.reading.is_level

    def taken(self, states: Tensor) -> Tensor:
        """Other states of the teacher, one for each of the student's tokens: (B, T, D')."""
        return states if self.reading is None else self.reading.taken(states)


@dataclass(frozen=True, slots=True, eq=False)
class LanguageTeacher:
    """A trunk, and how its vocabulary stands to the student's.

    Attributes:
        trunk: In evaluation mode.
        cross: None where the vocabularies are the same.
    """

    trunk: Trunk
    cross: CrossTokenizer | None = None

    @property
    def vocab_size(self) -> int:
        """Logits of a token, before they are the student's."""
        return self.trunk.config.vocab_size

    def listen(self, ids: Tensor) -> Heard:
        """Read windows (B, T + 1) of the student's tokens."""
        context = self.trunk.config.max_position_embeddings
        reading = None if self.cross is None else self.cross.read(ids, context=context)
        with torch.no_grad():
            states = self.trunk.hidden(self.trunk.embed(ids[:, :-1] if reading is None else reading.ids))
        return Heard(reading, states if reading is None else reading.taken(states))

    def logits(self, states: Tensor, *aside: Tensor) -> Tensor:
        """Logits (N, V) of the student's next token.

        Args:
            states: (N, D') of `Heard`.
            aside: (N,) each, of `Heard`.
        """
        if self.cross is not None:
            return self.cross.logits(self.trunk.lm_head, states, *aside)
        return self.trunk.lm_head(states)  # type: ignore[no-any-return]
