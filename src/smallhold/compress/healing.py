"""The loss by which a pruned language model heals: from a cache, a live teacher, its own texts, or texts alone."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from smallhold.compress.cached_losses import cached_distill_loss
from smallhold.compress.distill_losses import DistillConfig, chunked, distill_loss
from smallhold.compress.hidden_states import HiddenStateLoss, record_layers, uniform_layer_map
from smallhold.compress.language_recipe import LanguageHealing
from smallhold.compress.language_teacher import LanguageTeacher
from smallhold.compress.logit_cache import LogitCache
from smallhold.compress.on_policy import draw_batch, gkd_loss
from smallhold.learn.model import Trunk


class Student(nn.Module):
    """What learns: the smaller trunk and, while its layers are taught too, the maps to the teacher's states."""

    def __init__(self, trunk: Trunk, hidden: HiddenStateLoss | None = None) -> None:
        super().__init__()
        self.trunk, self.hidden = trunk, hidden

    @classmethod
    def of(cls, trunk: Trunk, teacher: LanguageTeacher | None, choice: LanguageHealing, kept: Tensor | None) -> Student:
        """A student whose layers are taught where the recipe says so.

        Args:
            trunk: The smaller model.
            teacher: Who teaches, where one does.
            choice: The recipe's.
            kept: (D,) hidden units of the teacher that stayed; None = all.
        """
        if teacher is None or not choice.hidden_weight:
            return cls(trunk)
        taught = teacher.trunk.config
        pairs = uniform_layer_map(trunk.config.num_hidden_layers, taught.num_hidden_layers)
        return cls(trunk, HiddenStateLoss(pairs, trunk.config.hidden_size, taught.hidden_size, kept=kept))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class HealingLoss:
    """A loss for `learn.loop.train`; the rows of a step follow from step and seed alone.

    Attributes:
        choice: Which targets.
        windows: (W, T + 1) ids of the student's vocabulary.
        seed: Of the order in which a pass reads them.
        mark: Id that opens a document, and so ends the one before.
        teacher: For `live` and `on_policy`.
        cache: Of the first T tokens of every window; for `cached`.
    """

    choice: LanguageHealing
    windows: NDArray[np.int32]
    seed: int
    mark: int
    teacher: LanguageTeacher | None = None
    cache: LogitCache | None = None

    def __call__(self, model: nn.Module, step: int, rng: np.random.Generator) -> Tensor:
        """Loss of one step, nats a token."""
        if not isinstance(model, Student):
            raise TypeError(f"expected a Student, got {type(model).__name__}")
        rows = rows_of_step(step, self.choice.batch_size, len(self.windows), self.seed)
        ids = torch.from_numpy(self.windows[rows].astype(np.int64))
        largest = max(model.trunk.config.vocab_size, 0 if self.teacher is None else self.teacher.vocab_size)
        config = self.choice.distill(largest)
        if self.cache is not None:
            trunk = model.trunk
            states = trunk.hidden(trunk.embed(ids[:, :-1]))
            return cached_distill_loss(states, trunk.lm_head, self.cache.windows(rows), config)
        if self.teacher is None:
            return text_loss(model.trunk, ids, config.chunk)
        if self.choice.targets == "on_policy":
            return self._on_policy(model.trunk, self.teacher, ids[:, :-1], config, rng)
        return self._live(model, self.teacher, ids, config)

    def _on_policy(
        self, trunk: Trunk, teacher: LanguageTeacher, ids: Tensor, config: DistillConfig, rng: np.random.Generator
    ) -> Tensor:
        batch = draw_batch(
            trunk,
            ids,
            prompt_length=ids.shape[1] - self.choice.continuation,
            on_policy_share=self.choice.on_policy_share,
            eos=self.mark,
            rng=rng,
        )
        return gkd_loss(trunk, teacher, batch, config)

    def _live(self, model: Student, teacher: LanguageTeacher, ids: Tensor, config: DistillConfig) -> Tensor:
        trunk, hidden = model.trunk, model.hidden
        with ExitStack() as stack:
            seen = [
                stack.enter_context(record_layers(who, [pair[side] for pair in hidden.layer_map] if hidden else []))
                for side, who in enumerate((trunk, teacher.trunk))
            ]
            heard = teacher.listen(ids)
            states = trunk.hidden(trunk.embed(ids[:, :-1]))
        loss = distill_loss(states, trunk.lm_head, heard.states, teacher.logits, config, aside=heard.aside)
        if hidden is None:
            return loss
        own, theirs = seen
        taught = {layer: heard.taken(value) for layer, value in theirs.items()}
        return loss + self.choice.hidden_weight * hidden(own, taught, heard.is_level)  # type: ignore[no-any-return]


def text_loss(trunk: Trunk, ids: Tensor, chunk: int) -> Tensor:
    """Mean nats a token of ids (B, T + 1), each given those before it; logits live for one chunk at a time."""

    def of_chunk(rows: Tensor, following: Tensor) -> Tensor:
        return F.cross_entropy(trunk.lm_head(rows).float(), following, reduction="none")

    states = trunk.hidden(trunk.embed(ids[:, :-1])).flatten(0, 1)
    return chunked(of_chunk, chunk, states, ids[:, 1:].flatten()).mean()


def rows_of_step(step: int, batch_size: int, count: int, seed: int) -> NDArray[np.int64]:
    """(B,) windows of a step: passes follow each other, each in an order of its own.

    Args:
        step: From 0.
        batch_size: B.
        count: Windows that there are.
        seed: Of the orders.
    """
    turn, place = np.divmod(step * batch_size + np.arange(batch_size), count)
    return np.array([_order(seed, t, count)[p] for t, p in zip(turn.tolist(), place.tolist(), strict=True)])


@lru_cache(maxsize=2)
def _order(seed: int, turn: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 13, turn]).permutation(count)
