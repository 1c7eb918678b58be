"""Cross-tokenizer distillation: a teacher reads its own tokens, a student spells them with smaller ones.

A trimmed student writes `patient` as `pat`, `ient`. A teacher that is asked to read that spelling never saw it, and is
lost (docs/experiments.md). So it reads the text in its own tokens, and what it says of its next token t says all about
the pieces d(t) that the student spells t with:

    q(piece | pieces so far)  ~  sum of P(t) over the tokens t whose d(t) begins with the pieces so far and this piece

Tokens sorted by their spelling make every such sum one over neighbours. A token that ends with the pieces so far is
left out, for the text is seen to go on. The student does not see that: what it is taught is right on the average over
texts, as a text's own tokens are, and so for forward KL at temperature 1 alone. In its own writing, how often a word
goes on is its own choice, and is not taught.

Where the student's tokens do not spell the teacher's (BPE without some merges may cut a word elsewhere), and before the
teacher's first token, the text's own next token is the target.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from smallhold.compress.distill_losses import Head
from smallhold.compress.token_bytes import TokenBytes
from smallhold.errors import RecipeError

#: Log-probability of what the teacher rules out: finite, as a cache wants it.
_RULED_OUT = -1e4
#: Of the teacher's tokens, at most, that may have no spelling: vocabularies hold a few that no text needs.
_MOST_UNSPELLED = 0.01
_NOWHERE = -(2**40)
#: Bytes that are no UTF-8, as Python writes them.
_NO_TEXT = re.compile("([\udc80-\udcff]+)")
_ADVICE = (
    "teach by text instead: let the teacher label or write texts, and train the student on them with its own tokens"
)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """How a teacher reads B windows of T + 1 of the student's tokens, to foretell the last T of each.

    Attributes:
        ids: (B, T') its own tokens, filled up at the end.
        place: (B, T) which of its states foretells; 0 where none does.
        following: (B, T) the student's next token.
        low: (B, T) first of the tokens, in order of spelling, that the text has not ruled out.
        high: (B, T) the one behind the last; `low` where the teacher says nothing.
        depth: (B, T) pieces of its next token that the student has read.
    """

    ids: Tensor
    place: Tensor
    following: Tensor
    low: Tensor
    high: Tensor
    depth: Tensor

    @property
    def is_taught(self) -> Tensor:
        """(B, T) bool: the teacher has something to say."""
        return self.high > self.low

    @property
    def is_level(self) -> Tensor:
        """(B, T) bool: teacher and student have read the same text, but for a space that some tokenizers add."""
        return self.is_taught & (self.depth == 0)

    @property
    def aside(self) -> tuple[Tensor, ...]:
        """What `CrossTokenizer.logits` needs of each token: (B, T) each."""
        rows = torch.arange(len(self.ids))[:, None]
        return rows * self.ids.shape[1] + self.place, self.following, self.low, self.high, self.depth

    def taken(self, states: Tensor) -> Tensor:
        """The states (B, T', D) of the teacher that foretell: (B, T, D)."""
        return states[torch.arange(len(states))[:, None], self.place]


class CrossTokenizer:
    """Two vocabularies: the student's pieces spell the teacher's tokens.

    Attributes:
        teacher: Its tokenizer.
        student: Its tokenizer.
        vocab_size: Rows of the student's head.
    """

    def __init__(self, teacher: Tokenizer, student: Tokenizer, *, vocab_size: int | None = None) -> None:
        """Spell every token of the teacher.

        Args:
            teacher: BPE on bytes or with byte fallback.
            student: The same.
            vocab_size: Rows of the student's head; None = as many as it has tokens.

        Raises:
            RecipeError: the student's pieces cannot spell the teacher's tokens; says what to do instead.
        """
        self.teacher, self.student = teacher, student
        self._bytes, self._own_bytes = TokenBytes(teacher), TokenBytes(student)
        self._adds_space = b"".join(map(self._bytes.of, teacher.encode("a", add_special_tokens=False).ids)) == b" a"
        self.vocab_size = vocab_size or 1 + max(student.get_vocab(with_added_tokens=True).values())
        spelled = sorted((spelling, token) for token, spelling in self._spell_all().items())
        deepest = max(len(spelling) for spelling, _ in spelled)
        self._order = torch.tensor([token for _, token in spelled])
        self._pieces = torch.tensor([(*spelling, *[-1] * (deepest - len(spelling))) for spelling, _ in spelled])
        low: dict[tuple[int, ...], int] = {}
        high: dict[tuple[int, ...], int] = {}
        for i, (spelling, _) in enumerate(spelled):
            for depth in range(len(spelling)):
                low.setdefault(spelling[:depth], i)
                high[spelling[:depth]] = i + 1
        #: Of a token, every piece with the range of the tokens that may still be before it is read.
        self._path = {
            token: [(piece, low[spelling[:j]], high[spelling[:j]]) for j, piece in enumerate(spelling)]
            for spelling, token in spelled
        }

    def _spell_all(self) -> dict[int, tuple[int, ...]]:
        found: dict[int, tuple[int, ...]] = {}
        unspelled = []
        for token, i in self.teacher.get_vocab(with_added_tokens=True).items():
            own = self.student.token_to_id(token)
            if self._bytes.is_mark(i):
                if own is not None:
                    found[i] = (own,)  # a mark that the student lacks is never said
                continue
            spelling = [own] if own is not None else [piece.id for piece in self.student.model.tokenize(token)]
            if b"".join(map(self._own_bytes.of, spelling)) == self._bytes.of(i):
                found[i] = tuple(spelling)
            else:
                unspelled.append(token)
        if len(unspelled) > _MOST_UNSPELLED * len(found):
            raise RecipeError(
                f"vocabulary: {len(unspelled)} of the teacher's tokens cannot be spelled with the student's, for "
                f"example {min(unspelled)!r}",
                hint=_ADVICE,
            )
        return found

    def read(self, ids: Tensor, *, context: int) -> Reading:
        """How the teacher reads windows (B, T + 1) of the student's tokens.

        Args:
            ids: The student's.
            context: Most tokens that the teacher can read. It needs more than the student where a tokenizer adds
                spaces; what would be beyond is not taught.
        """
        found = np.zeros((4, len(ids), ids.shape[1] - 1), np.int64)
        read = []
        for row, window in enumerate(ids.tolist()):
            tokens, starts = (part[: context + 1] for part in self._teachers_tokens(window))
            self._align(window, tokens, starts, found[:, row])
            read.append(tokens[:-1])  # nothing is asked behind the last
        longest = max(1, *map(len, read))
        filled = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens in read])
        place, low, high, depth = torch.from_numpy(found)
        return Reading(filled, place, ids[:, 1:], low, high, depth)

    def _teachers_tokens(self, window: Sequence[int]) -> tuple[list[int], list[int]]:
        """The teacher's tokens of a window, and the byte at which each begins."""
        tokens: list[int] = []
        starts: list[int] = []
        at = 0
        for raw, part in self._encoded(window):
            said = list(map(self._bytes.of, part))
            # What a tokenizer puts before a text begins before it; a text that it changes has no place in ours.
            is_same = b"".join(said).endswith(raw)
            begin = at + len(raw) - sum(map(len, said)) if is_same else _NOWHERE
            tokens += part
            starts += list(accumulate(map(len, said), initial=begin))[:-1]
            at += len(raw)
        return tokens, starts

    def _encoded(self, window: Sequence[int]) -> Iterator[tuple[bytes, list[int]]]:
        """Marks, stretches of text and what is no text, each with the teacher's tokens of it."""
        for is_mark, run in groupby(window, self._own_bytes.is_mark):
            if is_mark:
                for name in map(self._own_bytes.of, run):
                    own = self.teacher.token_to_id(name.decode())
                    yield name, [] if own is None else [own]
                continue
            text = b"".join(map(self._own_bytes.of, run)).decode("utf-8", "surrogateescape")
            for part in filter(None, _NO_TEXT.split(text)):
                raw = part.encode("utf-8", "surrogateescape")
                if _NO_TEXT.match(part):
                    yield raw, [self._bytes.of_byte(value) for value in raw]
                else:
                    yield raw, self._encode(part, raw)

    def _encode(self, text: str, raw: bytes) -> list[int]:
        """Tokens that stand for the bytes `raw` of a text, without the space that some tokenizers put before one."""
        whole: list[int] = self.teacher.encode(text, add_special_tokens=False).ids
        if not self._adds_space or b"".join(map(self._bytes.of, whole)) == raw:
            return whole
        if text.startswith(" "):
            bare: list[int] = self.teacher.encode(text[1:], add_special_tokens=False).ids
            return bare if b"".join(map(self._bytes.of, bare)) == raw else whole
        return whole[1:] if self._bytes.of(whole[0]) == b" " else whole

    def _align(self, window: Sequence[int], tokens: list[int], starts: list[int], found: NDArray[np.int64]) -> None:
        """Fill in (4, T) `place`, `low`, `high` and `depth` of one window."""
        begins = list(accumulate((len(self._own_bytes.of(i)) for i in window), initial=0))
        piece_at = {byte: i for i, byte in enumerate(begins[:-1])}
        for k, (token, start) in enumerate(zip(tokens, starts, strict=True)):
            first = piece_at.get(start, 0)
            if k == 0 or first == 0 or token not in self._path:
                continue  # nothing was read before it, or the student cuts the text elsewhere
            for depth, (piece, low, high) in enumerate(self._path[token]):
                if first + depth >= len(window) or window[first + depth] != piece:
                    break
                found[:, first + depth - 1] = k - 1, low, high, depth

    def logits(
        self, head: Head, states: Tensor, place: Tensor, following: Tensor, low: Tensor, high: Tensor, depth: Tensor
    ) -> Tensor:
        """Logarithms (N, V) of what the teacher expects of the student's next token.

        Args:
            head: The teacher's states to its logits.
            states: (N, D') that foretell.
            place: (N,) equal for neighbours that have the same state; see `Reading`, like the others.
            following: (N,).
            low: (N,).
            high: (N,).
            depth: (N,).
        """
        is_new = torch.cat([torch.ones(1, dtype=torch.bool), place[1:] != place[:-1]])
        which = is_new.cumsum(0) - 1  # the pieces of a token are foretold by one state
        heard = head(states[is_new]).float().log_softmax(dim=-1)
        is_taught = high > low
        # One column more, for what is never said.
        first = torch.full(heard.shape[1:], self.vocab_size).index_copy(0, self._order, self._pieces[:, 0])
        said = torch.zeros(len(heard), self.vocab_size + 1).index_add(1, first, heard.exp())[which, :-1]
        said[~is_taught | (depth > 0)] = 0.0
        within = torch.nonzero(is_taught & (depth > 0))[:, 0]
        count = (high - low)[within]
        row = within.repeat_interleave(count)
        behind = torch.arange(len(row)) - (count.cumsum(0) - count).repeat_interleave(count)
        token = low[row] + behind
        left = heard[which[row], self._order[token]]
        # What is left may be as good as excluded: it counts relative to the likeliest of it.
        most = torch.full((len(said),), -torch.inf).scatter_reduce(0, row, left, "amax")
        said.index_put_((row, self._pieces[token, depth[row]]), (left - most[row]).exp(), accumulate=True)
        silent = torch.nonzero(~is_taught)[:, 0]
        said[silent, following[silent]] = 1.0
        return (said / said.sum(dim=-1, keepdim=True).clamp(min=1e-30)).log().clamp(min=_RULED_OUT)
