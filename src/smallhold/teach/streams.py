"""What a pretraining step reads: windows of packed text and observation words, and patients hour by hour.

Documents are laid end to end, each behind `<bos>`, in an order that depends on the seed and the pass alone; windows are
cut from that stream without regard to where documents end (Brown et al. 2020, section 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from smallhold.decide.signal import CHANNELS
from smallhold.learn.model import SignalModel

_MEAN, _MEASURED = CHANNELS.index("bin_mean"), CHANNELS.index("is_measured")
#: Rows of logits that are held at once: the vocabulary is wide, and a whole batch of logits would not fit the cache.
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class TokenStore:
    """Token ids of many documents in one array.

    Attributes:
        ids: (E,) uint16, document after document.
        offset: (N + 1,) where each begins.
    """

    ids: NDArray[np.uint16]
    offset: NDArray[np.int64]

    @classmethod
    def of(cls, documents: Sequence[Sequence[int]]) -> TokenStore:
        """Store documents given as lists of ids below 65,536."""
        offset = np.concatenate([[0], np.cumsum([len(ids) for ids in documents])]).astype(np.int64)
        flat = np.fromiter((i for ids in documents for i in ids), dtype=np.uint16, count=int(offset[-1]))
        return cls(flat, offset)

    def document(self, i: int) -> NDArray[np.uint16]:
        """(T,) ids of one document."""
        return self.ids[self.offset[i] : self.offset[i + 1]]

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.offset) - 1


class PackedStream:
    """Windows of a shuffled endless stream; window n is a pure function of the store, the passes and the seed."""

    def __init__(self, store: TokenStore, repeats: NDArray[np.int64], bos: int, seed: int) -> None:
        """Prepare.

        Args:
            store: Documents.
            repeats: (N,) how often a pass reads each document.
            bos: Id put before each document.
            seed: Seed of the order.
        """
        self._store, self._bos, self._seed = store, bos, seed
        self._documents = np.repeat(np.arange(len(store)), repeats)
        self.pass_length = int((np.diff(store.offset)[self._documents] + 1).sum())
        self._turn, self._stream = -1, np.zeros(0, np.uint16)

    def window(self, start: int, length: int) -> NDArray[np.int64]:
        """(length,) ids from an absolute position of the endless stream."""
        turn, at = divmod(start, self.pass_length)
        head = self._pass(turn)[at : at + length]
        if len(head) < length:
            rest = self.window((turn + 1) * self.pass_length, length - len(head))
            return np.concatenate([head.astype(np.int64), rest])
        return head.astype(np.int64)

    def _pass(self, turn: int) -> NDArray[np.uint16]:
        if turn != self._turn:
            order = np.random.default_rng([self._seed, 7, turn]).permutation(self._documents)
            mark = np.array([self._bos], dtype=np.uint16)
            self._stream = np.concatenate([part for i in order for part in (mark, self._store.document(i))])
            self._turn = turn
        return self._stream


class BaseModel(SignalModel):
    """Trunk with both doors, and the head that foretells the next hour; the head is not part of a checkpoint."""

    def __init__(self, config, num_channels: int, num_static: int) -> None:  # type: ignore[no-untyped-def]
        super().__init__(config, num_channels, num_static)
        self.next_hour = nn.Linear(config.hidden_size, 2 * (num_channels // len(CHANNELS)))

    def token_loss(self, ids: Tensor) -> Tensor:
        """Mean negative log-likelihood, in nats, of ids (B, 1 + T) given those before; logits are made in chunks."""
        hidden = self.trunk.hidden(self.trunk.embed(ids[:, :-1])).flatten(0, 1)
        target = ids[:, 1:].flatten()
        weight = self.trunk.lm_head.weight
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(target), _CHUNK):
            part = slice(start, start + _CHUNK)
            total = total + _ChunkLoss.apply(hidden[part], weight, target[part])  # type: ignore[no-untyped-call]
        return total / len(target)

    def next_hour_loss(self, channels: Tensor, static: Tensor) -> Tensor:
        """How badly each hour foretells the next: its means where measured, and whether it is measured.

        Args:
            channels: (B, T, C).
            static: (B, S).

        Returns:
            Smooth L1 of the normal scores plus half the binary cross-entropy of the presence.
        """
        hidden = self.trunk.hidden(self.encoder(channels[:, :-1], static))  # (B, T, D): prefix and T - 1 hours
        value, presence = self.next_hour(hidden).float().chunk(2, dim=-1)
        following = channels.view(*channels.shape[:2], -1, len(CHANNELS))
        measured, mean = following[..., _MEASURED], following[..., _MEAN]
        error = F.smooth_l1_loss(value, mean, reduction="none") * measured
        return error.sum() / measured.sum().clamp(min=1) + 0.5 * F.binary_cross_entropy_with_logits(presence, measured)


class _ChunkLoss(torch.autograd.Function):
    """Cross-entropy of some rows against the tied head, summed; the logits live for the length of this call alone.

    The gradient is worked out at once and kept instead of the logits: it is D wide, they are V.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        log_probability = torch.log_softmax((hidden @ weight.T.to(hidden.dtype)).float(), dim=-1)
        loss = -log_probability.gather(1, target[:, None]).sum()
        probability = log_probability.exp_().to(hidden.dtype)
        probability[torch.arange(len(target)), target] -= 1
        ctx.save_for_backward(probability @ weight.to(hidden.dtype), probability.T @ hidden)
        return loss

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[no-untyped-def]
        for_hidden, for_weight = ctx.saved_tensors
        return gradient.to(for_hidden.dtype) * for_hidden, (gradient * for_weight).float(), None


@dataclass(frozen=True, slots=True)
class PatientStream:
    """Patients through the signal door.

    Attributes:
        channels: (N, T, C) float16.
        static: (N, S) float32.
    """

    channels: NDArray[np.float16]
    static: NDArray[np.float32]


class PretrainingLoss:
    """Loss of a step: text and observation words, or, every `signal_every`-th step, patients hour by hour."""

    def __init__(
        self,
        stream: PackedStream,
        patients: PatientStream | None,
        *,
        batch_size: int,
        sequence_length: int,
        signal_every: int,
        signal_batch_size: int,
    ) -> None:
        self._stream, self._patients = stream, patients
        self._batch_size, self._length = batch_size, sequence_length
        self._signal_every, self._signal_batch_size = signal_every, signal_batch_size

    def __call__(self, model: nn.Module, step: int, rng: np.random.Generator) -> Tensor:
        """Loss of one step."""
        if not isinstance(model, BaseModel):
            raise TypeError(f"expected a BaseModel, got {type(model).__name__}")
        patients = self._patients
        if patients is not None and step % self._signal_every == self._signal_every - 1:
            rows = rng.permutation(len(patients.static))[: self._signal_batch_size]
            channels = torch.from_numpy(patients.channels[rows].astype(np.float32))
            return model.next_hour_loss(channels, torch.from_numpy(patients.static[rows]))
        # Windows follow each other through the stream, so that a pass reads every token once.
        text_step = step - step // self._signal_every if patients is not None else step
        start = text_step * self._batch_size * self._length
        windows = [self._stream.window(start + i * self._length, self._length + 1) for i in range(self._batch_size)]
        return model.token_loss(torch.from_numpy(np.stack(windows)))
