"""On-policy distillation: the student writes, the teacher says how it would have gone on at every token.

Source: GKD, Agarwal et al. 2023, arXiv:2306.13649, algorithm 1: with probability lambda a batch is the student's own
continuation of its prompts, otherwise a fixed text; either is scored by the teacher, and no gradient passes through the
writing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from smallhold.compress.distill_losses import DistillConfig, distill_loss
from smallhold.compress.language_teacher import LanguageTeacher
from smallhold.errors import RecipeError, ShapeError
from smallhold.learn.model import Trunk


@dataclass(frozen=True, slots=True, eq=False)
class Continuations:
    """Texts to be scored.

    Attributes:
        ids: (B, T) prompt and continuation.
        mask: (B, T) bool, True where the *next* token belongs to the continuation: states that the loss reads.
    """

    ids: Tensor
    mask: Tensor


def generate(
    student: Trunk, prompts: Tensor, *, num_tokens: int, eos: int | None, seed: int, temperature: float = 1.0
) -> Continuations:
    """Let the student continue prompts by sampling.

    Every token reads the whole text again: there is no key-value cache in the torch trunk, so that the cost grows with
    the square of the length. For some tens of tokens and a small trunk that is less than the step that follows.

    Args:
        student: In evaluation mode while it writes.
        prompts: (B, P) ids of equal length, P >= 1.
        num_tokens: Tokens to write; fewer when all rows have ended.
        eos: Id that ends a text; what follows it does not count. None = none.
        seed: Of the draws; the same seed, weights and prompts give the same text.
        temperature: Divides the logits; 0 takes the likeliest token.

    Raises:
        ShapeError: prompts of another shape, or prompt and continuation are longer than the trunk's context.
    """
    if prompts.ndim != 2 or not prompts.numel() or num_tokens < 1:
        raise ShapeError(f"generation: expected prompts (B, P) and 1 token or more, got {tuple(prompts.shape)}")
    context = student.config.max_position_embeddings
    if prompts.shape[1] + num_tokens > context:
        raise ShapeError(f"generation: {prompts.shape[1]} + {num_tokens} tokens exceed the context of {context}")
    if temperature < 0:
        raise RecipeError(f"generation.temperature: expected 0 or more, got {temperature}")
    source = torch.Generator().manual_seed(seed)
    was_training = student.training
    ids, mask = prompts, torch.zeros(prompts.shape, dtype=torch.bool)
    is_open = torch.ones(len(prompts), dtype=torch.bool)
    student.eval()
    try:
        with torch.no_grad():
            for _ in range(num_tokens):
                logits = student.lm_head(student.hidden(student.embed(ids))[:, -1]).float()
                if temperature == 0:
                    drawn = logits.argmax(dim=-1)
                else:
                    drawn = torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=source)[:, 0]
                mask[:, -1] = is_open
                ids = torch.cat([ids, drawn[:, None]], dim=1)
                mask = torch.cat([mask, torch.zeros(len(mask), 1, dtype=torch.bool)], dim=1)
                if eos is not None:
                    is_open = is_open & (drawn != eos)
                if not is_open.any():
                    break
    finally:
        student.train(was_training)
    return Continuations(ids, mask)


def fixed_continuations(ids: Tensor, prompt_length: int) -> Continuations:
    """Given texts (B, T) whose first `prompt_length` tokens are the prompt."""
    if not 1 <= prompt_length < ids.shape[1]:
        raise ShapeError(f"continuations: expected a prompt of 1 to {ids.shape[1] - 1} tokens, got {prompt_length}")
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    mask[:, prompt_length - 1 : -1] = True
    return Continuations(ids, mask)


def draw_batch(
    student: Trunk,
    fixed: Tensor,
    *,
    prompt_length: int,
    on_policy_share: float,
    eos: int | None,
    rng: np.random.Generator,
    temperature: float = 1.0,
) -> Continuations:
    """A batch of GKD: the student's own continuations with probability lambda, the given ones otherwise.

    Args:
        student: Writes.
        fixed: (B, T) texts; their beginnings are the prompts, and as many tokens are written as they have after those.
        prompt_length: Tokens of a prompt.
        on_policy_share: lambda, 0 to 1.
        eos: Id that ends a text.
        rng: Generator of this step; two numbers are drawn whatever the outcome.
        temperature: Of the sampling.
    """
    if not 0 <= on_policy_share <= 1:
        raise RecipeError(f"distill.on_policy_share: expected 0 to 1, got {on_policy_share}")
    draw, seed = rng.random(), int(rng.integers(2**62))
    given = fixed_continuations(fixed, prompt_length)
    if draw >= on_policy_share:
        return given
    return generate(
        student,
        fixed[:, :prompt_length],
        num_tokens=fixed.shape[1] - prompt_length,
        eos=eos,
        seed=seed,
        temperature=temperature,
    )


def gkd_loss(student: Trunk, teacher: LanguageTeacher, batch: Continuations, config: DistillConfig) -> Tensor:
    """Mean divergence of teacher and student over the tokens of the continuations.

    Args:
        student: Its ids are those of the batch.
        teacher: Of the same student.
        batch: Texts.
        config: Which divergence.
    """
    heard = teacher.listen(batch.ids)
    states = student.hidden(student.embed(batch.ids[:, :-1]))
    mask = batch.mask[:, :-1]
    if heard.is_taught is not None:
        mask = mask & heard.is_taught  # what the student wrote there says nothing of what it should have written
    return distill_loss(states, student.lm_head, heard.states, teacher.logits, config, aside=heard.aside, mask=mask)
