"""A short text that the trunk writes, greedily, in a closed alphabet and to a bound: a dose as a note has it.

It is for what no list of choices could hold, and it is no decision: nothing is compared, nothing was calibrated, and
what is written may be wrong or made up. So it is kept apart from the fields of a task: it raises no alert, is no
choice, and has no part in calibration or abstention. Whoever shows it says that a model wrote it.

At each step the logits of the tokens that are allowed are read, and the largest is taken. Allowed is a token when all
its bytes are in the alphabet and fit within what is left of the bound, and always the end mark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from smallhold.device.backends import Session
from smallhold.errors import DecisionError, RecipeError

#: Longest bound of a string: each byte may take a pass of the trunk at every decision.
MOST_BYTES = 256
#: How byte-level vocabularies write a space.
_SPACE = "Ġ"


@dataclass(frozen=True, slots=True, kw_only=True)
class StringField:
    """What is to be written.

    Attributes:
        name: For example `dose_mg`.
        alphabet: Every character that may occur, printable ASCII, each once: `0123456789.`.
        max_bytes: The bound, 1 to 256.
        prompt: What the trunk reads before it writes, behind the question; may be empty.
    """

    name: str
    alphabet: str
    max_bytes: int
    prompt: str = ""

    def __post_init__(self) -> None:
        """Refuse what could not be written."""
        for member in ("name", "alphabet", "prompt"):
            if not isinstance(getattr(self, member), str):
                raise RecipeError(f"string {self.name}: {member}: expected text, got {getattr(self, member)!r}")
        is_printable = all(" " <= character <= "~" for character in self.alphabet)
        if not self.name or not self.alphabet or not is_printable or len(set(self.alphabet)) < len(self.alphabet):
            raise RecipeError(
                f"string {self.name!r}: expected a name, and an alphabet of different printable ASCII characters, got "
                f"{self.alphabet!r}"
            )
        if type(self.max_bytes) is not int or not 1 <= self.max_bytes <= MOST_BYTES:
            raise RecipeError(f"string {self.name}: max_bytes: expected 1 to {MOST_BYTES}, got {self.max_bytes!r}")


@dataclass(frozen=True, slots=True)
class GeneratedString:
    """What the trunk wrote.

    Attributes:
        text: In the alphabet, no longer than the bound; may be empty.
        mean_logprob: Mean log-probability of the tokens taken, the end mark included, each among those allowed. Not
            calibrated: it compares texts of one field, and promises nothing.
        has_ended: The trunk ended it by the end mark; otherwise it met the bound and may be cut.
        is_generated: Always true, wherever the string goes.
    """

    text: str
    mean_logprob: float
    has_ended: bool
    is_generated: Literal[True] = True


@dataclass(frozen=True, slots=True)
class StringPlan:
    """How one string is written.

    Attributes:
        name: Of the field.
        prompt: (F,) tokens that are read first.
        end: The end mark.
        max_bytes: The bound.
        pieces: Every token that may be taken, by rising id, and what it writes: nothing, of the end mark.
    """

    name: str
    prompt: tuple[int, ...]
    end: int
    max_bytes: int
    pieces: Mapping[int, str]

    @property
    def longest(self) -> int:
        """Most tokens that are read and written behind the question."""
        return len(self.prompt) + self.max_bytes

    def write(self, session: Session) -> GeneratedString:
        """Write behind a question; of equally probable tokens the smallest id is taken.

        Args:
            session: Behind the question, just appended; it stays as it is.

        Raises:
            CapacityError: the context has no room.
            DecisionError: the logits are not finite; a runtime has failed.
        """
        trunk = session.fork()
        trunk.append(list(self.prompt))
        text, total, steps = "", 0.0, 0
        while len(text) < self.max_bytes:
            allowed = [token for token, piece in self.pieces.items() if len(text) + len(piece) <= self.max_bytes]
            logits = trunk.score([], [-1], allowed)[0].astype(np.float64)
            if not np.isfinite(logits).all():
                raise DecisionError(f"string {self.name}: expected {len(allowed)} finite logits, got others")
            best = int(np.argmax(logits))
            total, steps = total + float(logits[best] - np.logaddexp.reduce(logits)), steps + 1
            if allowed[best] == self.end:
                return GeneratedString(text, total / steps, has_ended=True)
            text += self.pieces[allowed[best]]
            if len(text) < self.max_bytes:
                trunk.append([allowed[best]])
        return GeneratedString(text, total / steps, has_ended=False)


def plan_string(
    field: StringField, vocabulary: Mapping[str, int], spell: Callable[[str], Sequence[int]], end: int | None
) -> StringPlan:
    """Compile a field.

    Args:
        field: The field.
        vocabulary: Name to id of every token that is no special one, byte-level.
        spell: Text to token ids.
        end: The mark that ends a text.

    Raises:
        RecipeError: the tokenizer has no end mark, or is not byte-level.
    """
    if end is None:
        raise RecipeError(f"string {field.name}: the tokenizer has no mark by which a text could end, such as <eos>")
    if _SPACE not in vocabulary:
        raise RecipeError(
            f"string {field.name}: expected a byte-level tokenizer, got one without {_SPACE!r}, the space"
        )
    allowed = set(field.alphabet.replace(" ", _SPACE))
    pieces = {number: name.replace(_SPACE, " ") for name, number in vocabulary.items() if name and set(name) <= allowed}
    pieces = {number: piece for number, piece in pieces.items() if len(piece) <= field.max_bytes} | {end: ""}
    return StringPlan(field.name, tuple(spell(field.prompt)), end, field.max_bytes, dict(sorted(pieces.items())))
