"""Muon: momentum whose update is made orthogonal, for the matrices inside a network's layers.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale that lets it share
AdamW's learning rate: Liu et al. 2025, arXiv:2502.16982, section 2.2. torch's own computes in bfloat16, which many CPUs
only emulate (docs/experiments.md); this one works in float32 and on all matrices of one shape at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Coefficients of the quintic iteration, from the source: they raise small singular values fast and end near 1.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalize(matrices: Tensor, *, iterations: int = 5) -> Tensor:
    """Bring all singular values near 1 by Newton-Schulz iteration.

    Args:
        matrices: (N, O, I) float32, none all zero.
        iterations: Steps of the iteration.

    Returns:
        (N, O, I) with the same singular vectors; singular values that were not tiny lie in about [0.7, 1.2].
    """
    x: Tensor
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if is_tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.transpose(1, 2)
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.transpose(1, 2) if is_tall else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay.

    Args:
        params: Matrices (O, I).
        lr: Learning rate on AdamW's scale.
        momentum: Of the running gradient.
        weight_decay: Decoupled, times the learning rate.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, *, momentum: float = 0.95, weight_decay: float = 0.1
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002 - torch's signature
        """One step on every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[tuple(p.shape)].append(p)
            for shape, same in by_shape.items():
                updates = torch.stack([self._momentum(p, group["momentum"]) for p in same])
                # 0.2 sqrt(max(O, I)) gives the update the root mean square that AdamW's usually has.
                scale = 0.2 * max(shape) ** 0.5
                for p, update in zip(same, orthogonalize(updates), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"] * scale)

    def _momentum(self, p: Tensor, momentum: float) -> Tensor:
        assert p.grad is not None  # noqa: S101 - for the type checker; `step` has looked
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        buffer: Tensor = state["momentum_buffer"]
        buffer.lerp_(p.grad, 1 - momentum)
        return torch.lerp(p.grad, buffer, momentum)
