"""Several tasks on one trunk: each brings lessons, and a fixed timetable says which lesson a step holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from smallhold.learn.model import SignalModel
from smallhold.teach.signal_training import SignalData

_BUCKETED = 16  # batches drawn together and sorted by length, so that little is padding


class Lesson(Protocol):
    """Batches of one kind."""

    @property
    def steps(self) -> int:
        """How many there are."""
        ...

    @property
    def not_before(self) -> float:
        """Place, 0 to 1, from which on these are spread; lessons without one are spread over the whole."""
        ...

    def __call__(self, model: SignalModel, number: int, rng: np.random.Generator) -> Tensor:
        """Loss of the lesson's batch `number`."""
        ...


class Timetable:
    """Loss of any step of a run of several lessons, spread evenly at random by the seed."""

    def __init__(self, lessons: Sequence[Lesson], seed: int) -> None:
        rng = np.random.default_rng([seed, 11])
        kind = np.repeat(np.arange(len(lessons)), [lesson.steps for lesson in lessons])
        earliest = np.repeat([lesson.not_before for lesson in lessons], [lesson.steps for lesson in lessons])
        order = np.argsort(earliest + (1 - earliest) * rng.random(len(kind)), kind="stable")
        self._lessons, self._kind = list(lessons), kind[order]
        self._number = np.zeros(len(kind), dtype=np.int64)
        for k in range(len(lessons)):
            self._number[self._kind == k] = np.arange(lessons[k].steps)

    @property
    def steps(self) -> int:
        """Steps in all."""
        return len(self._kind)

    def __call__(self, model: nn.Module, step: int, rng: np.random.Generator) -> Tensor:
        """Loss of one step."""
        if not isinstance(model, SignalModel):
            raise TypeError(f"expected a SignalModel, got {type(model).__name__}")
        lesson = self._lessons[int(self._kind[step])]
        return lesson(model, int(self._number[step]), rng)


def batch_of(lengths: NDArray[np.int64], size: int, number: int, seed: int) -> NDArray[np.int64]:
    """Rows of batch `number`: every pass goes through all rows in a new order, and a batch holds similar lengths.

    Args:
        lengths: (N,) length of each row.
        size: Rows of a batch.
        number: Batch; a pass has ceil(N / size) of them.
        seed: Seed of the order.
    """
    a_pass = -(-len(lengths) // size)
    turn, at = divmod(number, a_pass)
    rng = np.random.default_rng([seed, 13, turn])
    order = rng.permutation(len(lengths))
    block = size * _BUCKETED
    for start in range(0, len(order), block):
        part = order[start : start + block]
        order[start : start + block] = part[np.argsort(lengths[part], kind="stable")]
    first = int(rng.permutation(a_pass)[at]) * size
    rows: NDArray[np.int64] = order[first : first + size]
    return rows


def pad(rows: Sequence[Sequence[int]], filler: int) -> NDArray[np.int64]:
    """(B, T) with `filler` behind the shorter ones; nothing that comes before it sees it."""
    out = np.full((len(rows), max(map(len, rows))), filler, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


@dataclass(frozen=True, eq=False)  # without slots, which would leave no place for what is counted once
class TextLesson:
    """Texts and their labels: the answer is read behind the marker that closes the text.

    Attributes:
        tokens: N texts as ids.
        targets: (N, K) probability of each choice: 1 for the label, or what a teacher says.
        choices: (K,) vocabulary rows of the choices.
        ids: `<bos>`, marker and padding.
        batch_size: Texts a step.
        steps: Number of steps.
        token_dropout: Share of tokens that a text loses.
        dropout: Inside the trunk.
        seed: Seed of the order.
        not_before: See `Lesson`.
    """

    tokens: Sequence[Sequence[int]]
    targets: NDArray[np.float32]
    choices: NDArray[np.int64]
    ids: tuple[int, int, int]
    batch_size: int
    steps: int
    token_dropout: float
    dropout: float
    seed: int
    not_before: float = 0.0

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        return np.array([len(ids) for ids in self.tokens])

    def __call__(self, model: SignalModel, number: int, rng: np.random.Generator) -> Tensor:
        """Cross-entropy over the choices."""
        model.set_dropout(self.dropout)
        rows = batch_of(self._lengths, self.batch_size, number, self.seed)
        bos, marker, filler = self.ids
        batch = []
        for i in rows:
            ids = np.asarray(self.tokens[i])
            batch.append([bos, marker, *ids[rng.random(len(ids)) >= self.token_dropout].tolist(), marker])
        at = torch.tensor([len(row) - 1 for row in batch])
        hidden = model.trunk.hidden(model.trunk.embed(torch.from_numpy(pad(batch, filler))))
        read = hidden[torch.arange(len(rows)), at]
        logits = model.trunk.choice_logits(read, torch.from_numpy(self.choices))
        return F.cross_entropy(logits.float(), torch.from_numpy(self.targets[rows]))


@dataclass(frozen=True, slots=True, eq=False)
class WordTable:
    """Stays in observation words, as arrays: cards can be recombined and thinned before they are spelled.

    Attributes:
        prefix: N lists of ids: `<bos>` and what is known on admission.
        value_id: (parameters, bins) id of each value word.
        bins: (N, cards, parameters) int8, -1 where nothing was measured.
        hour_id: (cards,) id of the word that closes each card.
        ends: (cards,) bin of the signal door after which each card closes.
    """

    prefix: Sequence[Sequence[int]]
    value_id: NDArray[np.int64]
    bins: NDArray[np.int8]
    hour_id: NDArray[np.int64]
    ends: NDArray[np.int64]

    def lengths(self) -> NDArray[np.int64]:
        """(N,) words of each stay."""
        words: NDArray[np.int64] = (
            (self.bins >= 0).sum(axis=(1, 2)) + len(self.ends) + np.array([len(ids) for ids in self.prefix])
        )
        return words

    def spell(self, i: int, bins: NDArray[np.int8]) -> tuple[list[int], NDArray[np.int64]]:
        """Ids of a stay whose cards are `bins` (cards, parameters), and the (cards,) places of the hour words."""
        cards, parameters = bins.shape
        grid = np.full((cards, parameters + 1), -1, dtype=np.int64)
        grid[:, :-1] = np.where(bins >= 0, self.value_id[np.arange(parameters), np.maximum(bins, 0)], -1)
        grid[:, -1] = self.hour_id
        ids = grid[grid >= 0].tolist()
        places: NDArray[np.int64] = np.cumsum((grid >= 0).sum(axis=1)) - 1 + len(self.prefix[i])
        return [*self.prefix[i], *ids], places


@dataclass(frozen=True, eq=False)
class WordLesson:
    """Patients in observation words, taught by the signal door of the same trunk.

    At every hour word the state is pulled to the signal door's state of that hour, and half of the target is what the
    signal door says (docs/experiments.md).

    Attributes:
        table: Stays in words.
        data: The same stays for the signal door, with their targets.
        choices: (2,) vocabulary rows of the negative and the positive choice.
        filler: Id of the padding.
        batch_size: Stays a step.
        steps: Number of steps.
        hidden_weight: Weight of the squared distance between states, relative to their variance.
        parameter_dropout: Probability that a whole parameter of a patient is hidden.
        dropout: Inside the trunk.
        seed: Seed of the order.
        not_before: See `Lesson`.
    """

    table: WordTable
    data: SignalData
    choices: NDArray[np.int64]
    filler: int
    batch_size: int
    steps: int
    hidden_weight: float
    parameter_dropout: float
    dropout: float
    seed: int
    not_before: float = 0.2

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        return self.table.lengths()

    def __call__(self, model: SignalModel, number: int, rng: np.random.Generator) -> Tensor:
        """Binary cross-entropy at every hour word, and the distance to the signal door's states."""
        rows = batch_of(self._lengths, self.batch_size, number, self.seed)
        at = torch.from_numpy(self.table.ends - 1)
        choices = torch.from_numpy(self.choices)
        with torch.no_grad():
            model.set_dropout(0.0)
            channels = torch.from_numpy(self.data.channels[rows].astype(np.float32))
            signal = model.trunk.hidden(model.encoder(channels, torch.from_numpy(self.data.static[rows])))[:, 1:][:, at]
            scores = model.trunk.choice_logits(signal, choices).float()
            said = torch.sigmoid(scores[..., 1] - scores[..., 0])
        model.set_dropout(self.dropout)
        spelled = []
        for i in rows:
            keep = rng.random(self.table.bins.shape[2]) >= self.parameter_dropout
            spelled.append(self.table.spell(int(i), np.where(keep, self.table.bins[i], np.int8(-1))))
        ids = torch.from_numpy(pad([ids for ids, _ in spelled], self.filler))
        places = torch.from_numpy(np.stack([places for _, places in spelled]))
        hidden = model.trunk.hidden(model.trunk.embed(ids))
        read = hidden[torch.arange(len(rows))[:, None], places]  # (B, cards, D)
        scores = model.trunk.choice_logits(read, choices).float()
        target = 0.5 * said + 0.5 * torch.from_numpy(self.data.target[rows])[:, at]
        loss = F.binary_cross_entropy_with_logits(scores[..., 1] - scores[..., 0], target, reduction="none")
        weight = torch.from_numpy(self.data.hour_weight)[at]
        distance = ((read - signal) ** 2).mean() / signal.var()
        return (loss * weight).mean() / weight.mean() + self.hidden_weight * distance
