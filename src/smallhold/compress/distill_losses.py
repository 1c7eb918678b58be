"""Distillation losses between token distributions: forward KL, reverse KL and what lies between.

P is the teacher, Q the student. All functions work on log-probabilities, so that the same three divergences serve a
whole vocabulary and the K + 1 outcomes of "top k or the rest".

Temperature: both sets of logits are divided by it; the loss is multiplied by its square, so that gradients keep their
size (Hinton et al. 2015, arXiv:1503.02531, section 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from smallhold.errors import RecipeError, ShapeError

Divergence = Literal["forward_kl", "reverse_kl", "jsd"]
#: States (N, D) to logits (N, V).
Head = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillConfig:
    """Which divergence is minimised.

    Attributes:
        divergence: `forward_kl` covers all that the teacher might say, `reverse_kl` avoids what it would not, `jsd` is
            between.
        beta: Of `jsd`: near 0 like forward KL, near 1 like reverse KL.
        temperature: Above 1 shows more of the unlikely tokens.
        chunk: Tokens whose logits are held at once.
    """

    divergence: Divergence = "forward_kl"
    beta: float = 0.5
    temperature: float = 1.0
    chunk: int = 1024

    def __post_init__(self) -> None:
        """Refuse what is not defined."""
        if self.divergence not in ("forward_kl", "reverse_kl", "jsd"):
            raise RecipeError(f"distill.divergence: expected forward_kl, reverse_kl or jsd, got {self.divergence!r}")
        if not 0 < self.beta < 1:
            raise RecipeError(
                f"distill.beta: expected a value between 0 and 1, got {self.beta}",
                hint="use forward_kl for the limit 0 and reverse_kl for the limit 1",
            )
        if not 0 < self.temperature < float("inf"):
            raise RecipeError(f"distill.temperature: expected a positive number, got {self.temperature}")
        if self.chunk < 1:
            raise RecipeError(f"distill.chunk: expected at least 1 token, got {self.chunk}")


def forward_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(P || Q) of log-probabilities (N, V), nats: (N,). Outcomes that the teacher excludes (-inf) count nothing."""
    probability = teacher.exp()
    return torch.where(probability > 0, probability * (teacher - student), 0.0).sum(dim=-1)


def reverse_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(Q || P) of log-probabilities (N, V), nats: (N,)."""
    return forward_kl(student, teacher)


def generalized_jsd(teacher: Tensor, student: Tensor, beta: float) -> Tensor:
    """Generalised Jensen-Shannon divergence of log-probabilities (N, V), nats: (N,).

    D = beta KL(P || M) + (1 - beta) KL(Q || M) with M = beta P + (1 - beta) Q. It is 0 for P = Q and never above
    -beta log(beta) - (1 - beta) log(1 - beta). D / beta tends to KL(P || Q) as beta tends to 0, and D / (1 - beta) to
    KL(Q || P) as beta tends to 1.

    Source: GKD, Agarwal et al. 2023, arXiv:2306.13649, section 2.
    """
    weight = torch.tensor([beta, 1 - beta], dtype=teacher.dtype, device=teacher.device)
    mixture = torch.logaddexp(teacher + weight[0].log(), student + weight[1].log())
    return weight[0] * forward_kl(teacher, mixture) + weight[1] * forward_kl(student, mixture)


def divergence(teacher: Tensor, student: Tensor, config: DistillConfig) -> Tensor:
    """The chosen divergence of log-probabilities (N, V): (N,), times the square of the temperature."""
    match config.divergence:
        case "forward_kl":
            value = forward_kl(teacher, student)
        case "reverse_kl":
            value = reverse_kl(teacher, student)
        case _:
            value = generalized_jsd(teacher, student, config.beta)
    return value * config.temperature**2


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities (N, V) in float32 of logits (N, V)."""
    return F.log_softmax(logits.float() / temperature, dim=-1)


def coarsen(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities (N, K + 1) of K named tokens and of all others together.

    Args:
        logits: (N, V).
        ids: (N, K) tokens, none twice in a row, K < V.
        temperature: Divides the logits.
    """
    scaled = logits.float() / temperature
    rest = scaled.scatter(-1, ids, float("-inf")).logsumexp(dim=-1, keepdim=True)
    both = torch.cat([scaled.gather(-1, ids), rest], dim=-1)
    return both - scaled.logsumexp(dim=-1, keepdim=True)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of values (N,) where mask (N,) is true or by its weights; 0 where nothing counts."""
    if mask is None:
        return values.mean()
    weight = mask.to(values.dtype)
    return torch.where(weight > 0, values * weight, 0.0).sum() / weight.sum().clamp(min=1e-9)


def distill_loss(
    student_states: Tensor,
    student_head: Head,
    teacher_states: Tensor,
    teacher_head: Callable[..., Tensor],
    config: DistillConfig,
    *,
    aside: Sequence[Tensor] = (),
    mask: Tensor | None = None,
) -> Tensor:
    """Mean divergence over tokens; the logits of either model live for one chunk at a time.

    Logits of all chunks but the last are made again in the backward pass, the teacher's too.

    Args:
        student_states: (B, T, D) final normalised states, with gradient.
        student_head: States to logits, for example `trunk.lm_head`.
        teacher_states: (B, T, D') of the same tokens; no gradient reaches them.
        teacher_head: States, and what lies aside of each, to logits over the student's vocabulary.
        config: Which divergence.
        aside: (B, T) each, more of every token for the teacher's head.
        mask: (B, T) bool or weights: which tokens count; None = all.

    Raises:
        ShapeError: the two models read other tokens, or the vocabularies differ in size.
    """
    if student_states.shape[:-1] != teacher_states.shape[:-1]:
        raise ShapeError(
            f"distillation: the student has states for {tuple(student_states.shape[:-1])} tokens, the teacher for "
            f"{tuple(teacher_states.shape[:-1])}"
        )

    def of_chunk(student: Tensor, *teacher: Tensor) -> Tensor:
        with torch.no_grad():
            target = log_probabilities(teacher_head(*teacher), config.temperature)
        said = log_probabilities(student_head(student), config.temperature)
        if said.shape != target.shape:
            raise ShapeError(
                f"distillation: the student's vocabulary has {said.shape[-1]} entries, the teacher's {target.shape[-1]}"
            )
        return divergence(target, said, config)

    taught = [teacher_states.detach().flatten(0, -2), *(part.flatten() for part in aside)]
    values = chunked(of_chunk, config.chunk, student_states.flatten(0, -2), *taught)
    return masked_mean(values, None if mask is None else mask.flatten())


def chunked(function: Callable[..., Tensor], size: int, *inputs: Tensor) -> Tensor:
    """`function` on `size` rows of the inputs at a time: (N,).

    The inner tensors of all parts but the last are made again in the backward pass, which begins with the last: there
    are never those of more than one part.
    """
    *parts, last = zip(*(torch.split(tensor, size) for tensor in inputs), strict=True)
    return torch.cat([*(checkpoint(function, *rows, use_reentrant=False) for rows in parts), function(*last)])
