"""The base learns to tell risk, site by site: adapters and one small head travel, the base and the patients do not.

Every site holds the same base: its digest is part of every model's, so that a site with another one takes no part. What
is trained are LoRA adapters beside all linear maps of trunk and signal door, and the head that reads the state of an
hour.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from smallhold.decide.signal import SignalSpec
from smallhold.errors import DataError
from smallhold.federate.job import LocalChoice
from smallhold.federate.layout import Layout, Vector
from smallhold.federate.local_model import Rows, Trained
from smallhold.learn.checkpoint import load_signal_model, read_checkpoint
from smallhold.learn.lora import LoraLinear, add_lora, set_parameters
from smallhold.learn.per_sample import PerSampleGradients, clipped_sum
from smallhold.records import canonical_json, sha256_hex
from smallhold.sectors.hospital import icu_risk
from smallhold.sectors.splits import Split
from smallhold.teach.signal_task import signal_inputs
from smallhold.teach.signal_training import hour_weights

if TYPE_CHECKING:
    from smallhold.federate.record_privacy import RecordGuard

#: Patients in one forward pass of a prediction.
_BATCH = 128


class TrunkRisk:
    """See `LocalModel`; inputs are `channels` (N, T, C) float16 and `static` (N, S) float32."""

    def __init__(self, base: Path, *, rank: int) -> None:
        """Load a base and put fresh adapters beside its maps.

        Raises:
            DataError: the base is missing, damaged, or was pretrained without patients.
        """
        self._model = load_signal_model(base)
        width = self._model.trunk.config.hidden_size
        self._adapters = add_lora(self._model, rank=rank, seed=0)
        self._head = nn.Linear(width, 1)
        nn.init.zeros_(self._head.weight)
        nn.init.zeros_(self._head.bias)
        maps = {name: module for name, module in self._model.named_modules() if isinstance(module, LoraLinear)}
        self._maps: dict[str, nn.Module] = {**maps, "head": self._head}
        trained = {**self._adapters, **{f"head.{name}": p for name, p in self._head.named_parameters()}}
        self._trained = {name: trained[name] for name in sorted(trained)}
        self._start = {name: p.detach().clone() for name, p in self._trained.items()}
        self.layout = Layout.of(_arrays(self._start), frozen=_digest_of(base))

    @property
    def num_channels(self) -> int:
        """C, channels of an hour."""
        return _width_of(self._model.encoder.basis) // 4

    @property
    def num_static(self) -> int:
        """S, static features."""
        return _width_of(self._model.encoder.static)

    def frozen_parameters(self) -> Iterator[nn.Parameter]:
        """What every site has already and nobody sends."""
        return (p for p in self._model.parameters() if not p.requires_grad)

    def initial(self, seed: int) -> Vector:
        """(P,) adapters that change nothing, one half of each drawn from the seed, and a head of zeros."""
        generator = torch.Generator().manual_seed(seed)
        drawn = {
            name: torch.randn(p.shape, generator=generator) * p.shape[1] ** -0.5 if name.endswith(".lora_a") else p
            for name, p in self._start.items()
        }
        return self.layout.flatten(_arrays(drawn))

    def train(
        self, model: Vector, rows: Rows, choice: LocalChoice, seed: int, guard: RecordGuard | None = None
    ) -> Trained:
        """See `LocalModel`; AdamW without decay, whose moments begin anew in every round."""
        if guard is not None:
            return self._train_guarded(model, rows, choice, guard)
        self._set(model)
        channels, static = rows.inputs["channels"], rows.inputs["static"]
        label = torch.from_numpy(rows.label.astype(np.float32))
        weight = torch.from_numpy(hour_weights(channels.shape[1], icu_risk.HORIZONS_H))
        start = {name: p.detach().clone() for name, p in self._trained.items()}
        optimizer = torch.optim.AdamW(self._trained.values(), lr=choice.learning_rate, weight_decay=0.0)
        rng = np.random.default_rng(seed)
        steps = max(1, math.ceil(choice.epochs * len(rows) / choice.batch_size))
        order, losses = np.zeros(0, np.int64), []
        for _ in range(steps):
            while len(order) < min(choice.batch_size, len(rows)):
                order = np.concatenate([order, rng.permutation(len(rows))])
            batch, order = order[: choice.batch_size], order[choice.batch_size :]
            logits = self._logits(channels[batch], static[batch])
            target = label[batch][:, None].expand_as(logits)
            loss = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight).mean()
            losses.append(float(loss.detach()))
            if choice.proximal:
                moved = [(p - start[name]).square().sum() for name, p in self._trained.items()]
                loss = loss + choice.proximal / 2 * torch.stack(moved).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._trained.values(), 1.0)
            optimizer.step()
        return Trained(self.layout.flatten(_arrays(self._trained)), float(np.mean(losses)))

    def _train_guarded(self, model: Vector, rows: Rows, choice: LocalChoice, guard: RecordGuard) -> Trained:
        """DP-SGD; AdamW on the noisy means, which costs no privacy."""
        self._set(model)
        channels, static = rows.inputs["channels"], rows.inputs["static"]
        label = torch.from_numpy(rows.label.astype(np.float32))
        weight = torch.from_numpy(hour_weights(channels.shape[1], icu_risk.HORIZONS_H))
        start = {name: p.detach().clone() for name, p in self._trained.items()}
        optimizer = torch.optim.AdamW(self._trained.values(), lr=choice.learning_rate, weight_decay=0.0)
        for _ in range(guard.steps):
            batch = guard.draw()
            total = np.zeros(self.layout.size)
            if len(batch):
                with PerSampleGradients(self._maps) as watched:
                    logits = self._logits(channels[batch], static[batch])
                    target = label[batch][:, None].expand_as(logits)
                    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight
                sums, _ = clipped_sum(watched.of(losses.mean(1)), clip_norm=guard.clip_norm)
                total = self.layout.flatten(_arrays(sums)).astype(np.float64)
            released = self.layout.unflatten(guard.release(total).astype(np.float32))
            with torch.no_grad():
                for name, p in self._trained.items():
                    p.grad = torch.from_numpy(released[name].copy())
                    if choice.proximal:
                        p.grad += choice.proximal * (p - start[name])
            optimizer.step()
        return Trained(self.layout.flatten(_arrays(self._trained)), 0.0)

    def predict(self, model: Vector, rows: Rows) -> NDArray[np.float64]:
        """See `LocalModel`; log-odds at the last hour."""
        self._set(model)
        found = [np.zeros(0)]
        with torch.no_grad():
            for at in range(0, len(rows), _BATCH):
                part = slice(at, at + _BATCH)
                logits = self._logits(rows.inputs["channels"][part], rows.inputs["static"][part])
                found.append(logits[:, -1].double().numpy())
        return np.concatenate(found)

    def _logits(self, channels: NDArray[np.float16], static: NDArray[np.float32]) -> torch.Tensor:
        """(B, T) log-odds at every hour."""
        x = torch.from_numpy(channels.astype(np.float32))
        hidden = self._model.trunk.hidden(self._model.encoder(x, torch.from_numpy(static)))[:, 1:]
        return self._head(hidden)[..., 0]  # type: ignore[no-any-return]

    def _set(self, model: Vector) -> None:
        values = {name: torch.from_numpy(array.copy()) for name, array in self.layout.unflatten(model).items()}
        set_parameters(self._trained, values)


def load_rows(base: Path, data_dir: Path | None, part: Split) -> dict[str, Rows]:
    """Stays of one part of the split by type of unit, as the base's signal door reads them.

    Raises:
        DataError: the data are missing, or the base was pretrained without patients.
    """
    about = read_checkpoint(base).about
    if "signal" not in about:
        raise DataError(f"base {base}: was pretrained without patients")
    spec = SignalSpec.from_json(about["signal"])
    stays = [s for s in icu_risk.split(icu_risk.load_stays(data_dir), part) if s.died is not None]
    sites = sorted({stay.icu_type for stay in stays})
    found = {}
    for site in sites:
        here = [stay for stay in stays if stay.icu_type == site]
        channels, static = signal_inputs(here, spec)
        label = np.array([bool(stay.died) for stay in here], dtype=np.int64)
        name = site.replace(" ", "-")
        found[name] = Rows({"channels": channels, "static": static}, label, tuple(s.record_id for s in here))
    return found


def _width_of(adapted: nn.Module) -> int:
    assert isinstance(adapted, LoraLinear)  # noqa: S101 - `add_lora` made it
    return adapted.frozen.in_features


def _digest_of(base: Path) -> str:
    """Of everything that stays as it is: trunk, signal door, and how readings become channels."""
    names = ("model.safetensors", "signal_encoder.safetensors", "smallhold.json")
    return sha256_hex(canonical_json([sha256_hex((base / name).read_bytes()) for name in names]))


def _arrays(tensors: dict[str, torch.Tensor] | dict[str, nn.Parameter]) -> dict[str, NDArray[np.float32]]:
    return {name: tensor.detach().numpy().astype(np.float32) for name, tensor in tensors.items()}
