"""What one training step of a signal task is made of: batches, targets, loss.

The recipe is measured in docs/experiments.md: trees that never saw a patient's outcome soften this patient's label
(distillation), and half of the batches are synthetic patients, each parameter's whole column taken from the patient
or from one donor of the same unit, which only the trees have labelled (function matching, Beyer et al. 2022,
arXiv:2106.05237).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from smallhold.decide.signal import CHANNELS
from smallhold.errors import RecipeError
from smallhold.learn.model import SignalModel

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalTrainingConfig:
    """How the model is taught.

    Attributes:
        epochs: Passes over the patients; every pass also makes as many synthetic ones as the share asks.
        batch_size: Patients a step.
        distill: Weight of the teacher in the target of a real patient; the label has the rest.
        synthetic_share: Share of the batches that are synthetic.
        swap: Probability that a parameter comes from the donor, one set of synthetic patients each.
        dropout: Inside the trunk.
        parameter_dropout: Probability that a whole parameter of a patient is hidden.
    """

    epochs: float = 6.0
    batch_size: int = 64
    distill: float = 0.6
    synthetic_share: float = 0.5
    swap: tuple[float, ...] = (0.15, 0.3, 0.5)
    dropout: float = 0.2
    parameter_dropout: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if not 0 < self.epochs < float("inf"):
            raise RecipeError(f"student.epochs: expected a positive number, got {self.epochs}")
        if not 1 <= self.batch_size <= 4096:
            raise RecipeError(f"student.batch_size: expected 1 to 4096, got {self.batch_size}")
        if not all(0 < probability <= 1 for probability in self.swap):
            raise RecipeError(f"student.swap: expected probabilities in (0, 1], got {list(self.swap)}")
        for name in ("distill", "synthetic_share", "dropout", "parameter_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(f"student.{name}: expected a share in [0, 1), got {getattr(self, name)}")
        if self.synthetic_share and not self.swap:
            raise RecipeError("student.swap: expected at least one probability when synthetic_share is positive")

    def num_steps(self, num_stays: int) -> int:
        """Steps so that every patient is seen `epochs` times."""
        return max(1, round(self.epochs * num_stays / self.batch_size / (1 - self.synthetic_share)))


@dataclass(frozen=True, slots=True)
class SyntheticSet:
    """Recombined patients: patient i takes a parameter from `donor[i]` where `is_swapped`, and keeps it elsewhere.

    Attributes:
        donor: (N,) index of the donor, of the same unit type.
        is_swapped: (N, parameters) bool.
        target: (N, T) probability that the trees give.
    """

    donor: NDArray[np.int64]
    is_swapped: NDArray[np.bool_]
    target: FloatArray


@dataclass(frozen=True, slots=True)
class SignalData:
    """Everything the loss reads.

    Attributes:
        channels: (N, T, C) float16.
        static: (N, S) float32.
        target: (N, T) probability: label and teacher mixed.
        synthetic: Sets of recombined patients; empty for none.
        hour_weight: (T,) weight of each hour in the loss, mean 1.
        is_asked: (N, T) bool: hours that count, where a question is not asked of everybody at all hours; None for all.
    """

    channels: NDArray[np.float16]
    static: FloatArray
    target: FloatArray
    synthetic: tuple[SyntheticSet, ...]
    hour_weight: FloatArray
    is_asked: NDArray[np.bool_] | None = None


def draw_donors(
    group: NDArray[np.int64], num_parameters: int, probability: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Choose a donor of the same group for every patient, and which parameters to take from it.

    Args:
        group: (N,) group of each patient, for example the unit type.
        num_parameters: Parameters of the signal door.
        probability: That a parameter is taken from the donor.
        rng: Source of randomness.

    Returns:
        donor (N,) and is_swapped (N, parameters).
    """
    donor = np.arange(len(group))
    for value in np.unique(group):
        members = np.flatnonzero(group == value)
        donor[members] = rng.choice(members, len(members))
    return donor, rng.random((len(group), num_parameters)) < probability


def recombine(
    channels: NDArray[np.float16], donor: NDArray[np.int64], is_swapped: NDArray[np.bool_], rows: NDArray[np.int64]
) -> NDArray[np.float16]:
    """Channels (B, T, C) of the synthetic patients `rows`."""
    swapped = np.repeat(is_swapped[rows], len(CHANNELS), axis=1)[:, None, :]
    return np.where(swapped, channels[donor[rows]], channels[rows])


def hour_weights(num_bins: int, horizons: tuple[int, ...]) -> FloatArray:
    """The first hours hold little and count 0.3, the hours that are reported count 3, the others 1."""
    weight = np.ones(num_bins, dtype=np.float32)
    weight[:3] = 0.3
    weight[[h - 1 for h in horizons if h <= num_bins]] = 3.0
    weight /= weight.mean()
    return weight


class SignalLoss:
    """Binary cross-entropy at every hour, against soft targets.

    Args:
        data: Patients and targets.
        config: How the model is taught.
        choices: (2,) vocabulary rows of the negative and the positive choice.
        seed: Seed of the order of the patients.
    """

    def __init__(self, data: SignalData, config: SignalTrainingConfig, choices: tuple[int, int], seed: int) -> None:
        self._data, self._config, self._seed = data, config, seed
        self._choices = torch.tensor(choices)
        self._hour_weight = torch.from_numpy(data.hour_weight)
        self._orders: dict[int, NDArray[np.int64]] = {}

    def __call__(self, model: nn.Module, step: int, rng: np.random.Generator) -> Tensor:
        """Loss of one step; all randomness comes from `rng` and torch's generator."""
        if not isinstance(model, SignalModel):
            raise TypeError(f"expected a SignalModel, got {type(model).__name__}")
        model.set_dropout(self._config.dropout)
        data = self._data
        # Synthetic batches are spread evenly between the real ones.
        share = self._config.synthetic_share
        num_synthetic = int((step + 1) * share)
        if data.synthetic and num_synthetic > int(step * share):
            part = data.synthetic[num_synthetic % len(data.synthetic)]
            rows = self._rows(num_synthetic - 1, is_synthetic=True)
            channels, target = recombine(data.channels, part.donor, part.is_swapped, rows), part.target[rows]
        else:
            rows = self._rows(step - num_synthetic, is_synthetic=False)
            channels, target = data.channels[rows], data.target[rows]
        hidden = rng.random((len(rows), channels.shape[2] // len(CHANNELS))) < self._config.parameter_dropout
        keep = torch.from_numpy(np.repeat(~hidden, len(CHANNELS), axis=1)[:, None, :])
        x = torch.from_numpy(channels.astype(np.float32)) * keep
        logits = model.choice_logits(x, torch.from_numpy(data.static[rows]), self._choices).float()
        margin = logits[..., 1] - logits[..., 0]
        loss = F.binary_cross_entropy_with_logits(margin, torch.from_numpy(target), reduction="none")
        if data.is_asked is None:
            return (loss * self._hour_weight).mean()
        weight = torch.from_numpy(data.is_asked[rows].astype(np.float32)) * self._hour_weight
        return (loss * weight).sum() / weight.sum().clamp(min=1.0)

    def _rows(self, batch: int, *, is_synthetic: bool) -> NDArray[np.int64]:
        """Patients of a batch: each pass goes through all of them in a new order."""
        count, size = len(self._data.static), self._config.batch_size
        places = np.arange(batch * size, (batch + 1) * size)
        return np.array([self._order(int(place // count), is_synthetic)[place % count] for place in places])

    def _order(self, turn: int, is_synthetic: bool) -> NDArray[np.int64]:
        key = 2 * turn + is_synthetic
        if key not in self._orders:
            if len(self._orders) > 8:
                self._orders.clear()
            rng = np.random.default_rng([self._seed, key])
            self._orders[key] = rng.permutation(len(self._data.static))
        return self._orders[key]
