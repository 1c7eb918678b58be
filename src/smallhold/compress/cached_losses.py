"""Distillation from a logit cache: the student's loss against packed targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from smallhold.compress.distill_losses import (
    DistillConfig,
    Head,
    chunked,
    coarsen,
    divergence,
    masked_mean,
)
from smallhold.compress.logit_packing import SparseTargets
from smallhold.errors import ShapeError


@dataclass(frozen=True, slots=True, eq=False)
class TargetTensors:
    """`SparseTargets` of N tokens as tensors.

    Attributes:
        head_ids: (N, K).
        head_logprobs: (N, K).
        rest_logprob: (N, 1).
        tail_ids: (N, S).
    """

    head_ids: Tensor
    head_logprobs: Tensor
    rest_logprob: Tensor
    tail_ids: Tensor

    @classmethod
    def of(cls, targets: SparseTargets) -> TargetTensors:
        """Flatten all leading axes."""
        return cls(
            torch.from_numpy(targets.head_ids).flatten(0, -2),
            torch.from_numpy(targets.head_logprobs).flatten(0, -2),
            torch.from_numpy(targets.rest_logprob).flatten()[:, None],
            torch.from_numpy(targets.tail_ids).flatten(0, -2),
        )


def sampled_cross_entropy(logits: Tensor, targets: TargetTensors) -> Tensor:
    """Cross-entropy (N,) of logits (N, V) against the exact head and the drawn tail.

    In expectation over the draws it is, up to quantization, the cross-entropy against the teacher's whole distribution:
    forward KL plus the teacher's entropy, which the student cannot change.
    """
    logits = logits.float()
    tail = (targets.rest_logprob.exp() / targets.tail_ids.shape[-1]).expand(targets.tail_ids.shape)
    weight = torch.cat([targets.head_logprobs.exp(), tail], dim=-1)
    named = logits.gather(1, torch.cat([targets.head_ids, targets.tail_ids], dim=-1))
    return logits.logsumexp(dim=-1) - (weight * named).sum(dim=-1)


def top_k_divergence(logits: Tensor, targets: TargetTensors, config: DistillConfig) -> Tensor:
    """Divergence (N,) over the head's tokens and all others together.

    A lower bound of the divergence over the whole vocabulary (data-processing inequality): how the student divides the
    rest among the other tokens is not taught. The cache must have been written at the temperature of `config`.
    """
    teacher = torch.cat([targets.head_logprobs, targets.rest_logprob], dim=-1)
    return divergence(teacher, coarsen(logits, targets.head_ids, config.temperature), config)


def cached_distill_loss(
    states: Tensor, head: Head, targets: SparseTargets, config: DistillConfig, *, mask: Tensor | None = None
) -> Tensor:
    """Mean loss over tokens against cached targets; the student's logits live for one chunk at a time.

    A cache with drawn tokens and forward KL at temperature 1 gives `sampled_cross_entropy`, everything else
    `top_k_divergence`.

    Args:
        states: (B, T, D) final normalised states of the student.
        head: States to logits.
        targets: From `LogitCache.windows`, for the same tokens.
        config: Which divergence.
        mask: (B, T) tokens that count; None = all.

    Raises:
        ShapeError: targets of other tokens.
    """
    if targets.rest_logprob.shape != tuple(states.shape[:-1]):
        raise ShapeError(f"cache: targets {targets.rest_logprob.shape} for states of {tuple(states.shape[:-1])} tokens")
    is_sampled = targets.tail_ids.shape[-1] > 0 and config.divergence == "forward_kl" and config.temperature == 1
    tensors = TargetTensors.of(targets)

    def of_chunk(rows: Tensor, *parts: Tensor) -> Tensor:
        part = TargetTensors(*parts)
        logits = head(rows)
        return sampled_cross_entropy(logits, part) if is_sampled else top_k_divergence(logits, part, config)

    values = chunked(
        of_chunk,
        config.chunk,
        states.flatten(0, -2),
        tensors.head_ids,
        tensors.head_logprobs,
        tensors.rest_logprob,
        tensors.tail_ids,
    )
    return masked_mean(values, None if mask is None else mask.flatten())
