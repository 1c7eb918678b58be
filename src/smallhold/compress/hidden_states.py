"""Teach a student's layers, not only its output: states after chosen layers are pulled to the teacher's.

Source: TinyBERT, Jiao et al. 2019, arXiv:1909.10351, equation 8 (a learned linear map where the widths differ) and its
uniform layer map. The squared error is divided by the variance of the teacher's states, so that one weight serves every
layer and model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from smallhold.compress.distill_losses import masked_mean
from smallhold.errors import RecipeError, ShapeError
from smallhold.learn.model import Trunk


def uniform_layer_map(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Pairs (student's layer, teacher's layer), evenly spread, the last on the last.

    >>> uniform_layer_map(2, 6)
    [(0, 2), (1, 5)]
    """
    if not 1 <= student_layers <= teacher_layers:
        raise RecipeError(
            f"layer map: a student of {student_layers} layers cannot follow a teacher of {teacher_layers}"
        )
    return [(i, round((i + 1) * teacher_layers / student_layers) - 1) for i in range(student_layers)]


@contextmanager
def record_layers(trunk: Trunk, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Collect the output (B, T, D) of some layers of every forward pass inside; a later pass replaces an earlier."""
    states: dict[int, Tensor] = {}
    blocks = trunk.blocks
    handles = [
        blocks[i].register_forward_hook(lambda _module, _args, output, i=i: states.__setitem__(i, output))
        for i in layers
    ]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


class HiddenStateLoss(nn.Module):
    """Distance between paired layers; its projections are trained along with the student and then thrown away.

    Args:
        layer_map: Pairs (student's layer, teacher's layer).
        student_width: D of the student.
        teacher_width: D of the teacher; with equal widths there is no projection.
        kept: (D,) teacher's units that a width-pruned student kept: its projection starts from there.
    """

    def __init__(
        self,
        layer_map: Sequence[tuple[int, int]],
        student_width: int,
        teacher_width: int,
        *,
        kept: Tensor | None = None,
    ) -> None:
        super().__init__()
        if not layer_map:
            raise RecipeError("layer map: expected at least one pair of layers")
        self.layer_map = tuple(layer_map)
        self.projections = nn.ModuleList()
        if student_width == teacher_width:
            return
        for _ in layer_map:
            projection = nn.Linear(student_width, teacher_width, bias=False)
            if kept is not None:
                start = torch.zeros(teacher_width, student_width)
                start[kept, torch.arange(student_width)] = 1
                projection.weight.data.copy_(start)
            self.projections.append(projection)

    def forward(self, student: dict[int, Tensor], teacher: dict[int, Tensor], mask: Tensor | None = None) -> Tensor:
        """Mean squared distance relative to the teacher's variance, over pairs.

        Args:
            student: Layer to states (B, T, D), from `record_layers`.
            teacher: Layer to states (B, T, D').
            mask: (B, T) tokens that count.

        Raises:
            ShapeError: a layer of the map was not recorded.
        """
        losses = []
        for i, (own, other) in enumerate(self.layer_map):
            if own not in student or other not in teacher:
                raise ShapeError(f"hidden states: layers {own} and {other} were not recorded")
            said = self.projections[i](student[own]) if len(self.projections) else student[own]
            target = teacher[other].detach().float()
            distance = ((said.float() - target) ** 2).mean(dim=-1).flatten()
            losses.append(
                masked_mean(distance, None if mask is None else mask.flatten()) / target.var().clamp(min=1e-9)
            )
        return torch.stack(losses).mean()
