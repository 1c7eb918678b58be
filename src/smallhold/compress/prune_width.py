"""Width pruning: drop FFN channels, attention heads and hidden units that calibration hardly activates.

Source: Minitron, Muralidharan et al. 2024, arXiv:2407.14679, section 2.2: importance is read from activations in
forward passes alone. Activations are aggregated over the tokens of a window and then over windows; the paper found the
mean of absolute values, then the L2 norm, to serve best, and that is the default here. An FFN channel's activation is
weighed by the norm of its column of `down_proj`, for the stream receives their product; this was better wherever it was
tried (docs/concepts/compression.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from smallhold.compress.calibration import CalibrationSet, observe, trunk_of
from smallhold.compress.selection import Model, Selection, take
from smallhold.errors import RecipeError
from smallhold.learn.model import SignalModel, Trunk, TrunkConfig

Aggregation = Literal["mean", "l2"]


@dataclass(frozen=True, slots=True, eq=False)
class Importance:
    """How strongly each removable part was active; higher stays.

    Attributes:
        channels: (L, F) of the input of `down_proj`, times the L2 norm of its column.
        heads: (L, H) of the L2 norm of a head's output before `o_proj`.
        hidden: (D,) of the output of every norm, summed over the norms.
        encoder_channels: (E,) of the input of the signal encoder's `down`, or, where text alone calibrates, the norms
            of its columns; None without a signal door.
        energy: Name of each norm to (D,), a unit's mean square relative to the mean over units: what the norm divides
            by, unit by unit. Its mean over all units is 1.
    """

    channels: Tensor
    heads: Tensor
    hidden: Tensor
    encoder_channels: Tensor | None
    energy: dict[str, Tensor]


class _Aggregate:
    """Importance over tokens, then windows."""

    def __init__(self, across_tokens: Aggregation, across_windows: Aggregation) -> None:
        self.across_tokens, self.across_windows = across_tokens, across_windows
        self.total, self.count = torch.zeros(()), 0

    def see(self, x: Tensor) -> None:
        """Add windows (B, T, C)."""
        x = x.float()
        window = x.abs().mean(dim=1) if self.across_tokens == "mean" else x.norm(dim=1)
        self.total = self.total + (window.sum(dim=0) if self.across_windows == "mean" else (window**2).sum(dim=0))
        self.count += len(x)

    def result(self) -> Tensor:
        """(C,) importance."""
        return self.total / max(self.count, 1) if self.across_windows == "mean" else self.total.sqrt()


def measure_importance(
    model: Trunk | SignalModel,
    calibration: CalibrationSet,
    *,
    across_tokens: Aggregation = "mean",
    across_windows: Aggregation = "l2",
) -> Importance:
    """Read the calibration set once and score every channel, head and hidden unit.

    Args:
        model: Read only.
        calibration: What it reads.
        across_tokens: Aggregation over the tokens of a window.
        across_windows: Aggregation over windows.
    """
    trunk, config = trunk_of(model), trunk_of(model).config
    names = {module: name for name, module in model.named_modules()}
    make = partial(_Aggregate, across_tokens, across_windows)
    channels, heads, encoder = [], [], make()
    inputs: dict[str, Callable[[Tensor], None]] = {}
    outputs: dict[str, Callable[[Tensor], None]] = {}
    for block in trunk.blocks:
        channels.append(make())
        heads.append(make())
        inputs[names[block.get_submodule("mlp.down_proj")]] = channels[-1].see
        inputs[names[block.get_submodule("self_attn.o_proj")]] = partial(_see_heads, heads[-1], config.head_dim)
    hidden: dict[str, _Aggregate] = {}
    energy: dict[str, _Aggregate] = {}
    for name in _stream_norms(model):
        hidden[name], energy[name] = make(), _Aggregate("mean", "mean")
        inputs[name] = partial(_see_energy, energy[name])
        outputs[name] = hidden[name].see
    if isinstance(model, SignalModel):
        inputs["encoder.down"] = lambda x: encoder.see(x if x.ndim == 3 else x[:, None])
    observe(model, calibration, inputs=inputs, outputs=outputs)
    return Importance(
        torch.stack([part.result() for part in channels]) * _column_norms(trunk),
        torch.stack([part.result() for part in heads]),
        torch.stack([part.result() for part in hidden.values()]).sum(dim=0),
        _encoder_importance(model, encoder) if isinstance(model, SignalModel) else None,
        {name: part.result() for name, part in energy.items()},
    )


def _column_norms(trunk: Trunk) -> Tensor:
    """(L, F) L2 norms of the columns of every `down_proj`."""
    weights = [block.get_submodule("mlp.down_proj").get_parameter("weight").detach() for block in trunk.blocks]
    return torch.stack([weight.norm(dim=0) for weight in weights])


def _see_heads(part: _Aggregate, head_dim: int, x: Tensor) -> None:
    part.see(x.float().view(*x.shape[:-1], -1, head_dim).norm(dim=-1))  # (B, T, H)


def _see_energy(part: _Aggregate, x: Tensor) -> None:
    square = x.float() ** 2
    part.see(square / square.mean(dim=-1, keepdim=True).clamp(min=1e-30))


def _stream_norms(model: Trunk | SignalModel) -> list[str]:
    """Names of the norms over the residual stream or over what is added to it."""
    width = trunk_of(model).config.hidden_size
    found = []
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        leaf = name.rsplit(".", 1)[-1]
        is_head_norm = leaf in ("q_norm", "k_norm")
        if leaf.endswith("norm") and not is_head_norm and weight is not None and tuple(weight.shape) == (width,):
            found.append(name)
    return found


def _encoder_importance(model: SignalModel, seen: _Aggregate) -> Tensor:
    return seen.result() if seen.count else model.encoder.down.weight.detach().norm(dim=0)


def select_width(
    importance: Importance,
    config: TrunkConfig,
    *,
    hidden_size: int | None = None,
    intermediate_size: int | None = None,
    num_attention_heads: int | None = None,
    num_key_value_heads: int | None = None,
) -> Selection:
    """What stays at the widths asked for; None leaves a width as it is.

    A key-value head is worth the sum of its query heads. The best ones stay, and of each the same number of its best
    query heads, so that groups stay equal. Ties go to the lower index; what stays keeps its order.

    Raises:
        RecipeError: a width is below one, above what there is, or heads cannot form equal groups.
    """
    for name, value in (
        ("hidden_size", hidden_size),
        ("intermediate_size", intermediate_size),
        ("num_attention_heads", num_attention_heads),
        ("num_key_value_heads", num_key_value_heads),
    ):
        if value is not None and not 1 <= value <= getattr(config, name):
            raise RecipeError(f"width: expected {name} from 1 to {getattr(config, name)}, got {value}")
    num_heads, num_kv = config.num_attention_heads, config.num_key_value_heads
    new_kv = num_key_value_heads or num_kv
    new_heads = num_attention_heads or num_heads // num_kv * new_kv
    group, new_group = num_heads // num_kv, new_heads // new_kv
    if new_heads % new_kv or new_group > group:
        raise RecipeError(
            f"width: {new_heads} heads cannot form {new_kv} equal groups of at most {group}",
            hint=f"num_attention_heads = {new_kv} times 1 to {group}",
        )
    heads = kv_heads = None
    if (new_heads, new_kv) != (num_heads, num_kv):
        scores = importance.heads.view(-1, num_kv, group)  # (L, KV, G)
        kv_heads = _best(scores.sum(dim=2), new_kv)
        inside = _best(scores.gather(1, kv_heads[:, :, None].expand(-1, -1, group)), new_group)
        heads = (kv_heads[:, :, None] * group + inside).flatten(1)
    encoder = None
    if hidden_size is not None and importance.encoder_channels is not None:
        share = len(importance.encoder_channels) // config.hidden_size  # its inner width is a multiple of the stream's
        encoder = _best(importance.encoder_channels, share * hidden_size)
    return Selection(
        channels=_best(importance.channels, intermediate_size) if intermediate_size else None,
        heads=heads,
        kv_heads=kv_heads,
        hidden=_best(importance.hidden, hidden_size) if hidden_size else None,
        encoder_channels=encoder,
    )


def _best(score: Tensor, count: int) -> Tensor:
    """Indices of the `count` highest along the last axis, ascending."""
    order = torch.sort(score, dim=-1, descending=True, stable=True).indices
    return order[..., :count].sort(dim=-1).values


def prune_width(
    model: Model,
    calibration: CalibrationSet,
    *,
    hidden_size: int | None = None,
    intermediate_size: int | None = None,
    num_attention_heads: int | None = None,
    num_key_value_heads: int | None = None,
    across_tokens: Aggregation = "mean",
    across_windows: Aggregation = "l2",
) -> tuple[Model, Selection]:
    """Measure, select and slice.

    Where hidden units go, a norm divides by the root mean square of fewer of them, and those that stay are the large
    ones: every norm's gain is multiplied by the ratio of the two roots on the calibration set.

    Args:
        model: Left alone.
        calibration: What it reads.
        hidden_size: D'; embeddings, head, norms and signal encoder follow.
        intermediate_size: F'.
        num_attention_heads: H'; default: whole groups go.
        num_key_value_heads: KV'.
        across_tokens: See `measure_importance`.
        across_windows: See `measure_importance`.

    Returns:
        The new model and what was kept. Widths that equal the old ones give the old weights.

    Raises:
        RecipeError: see `select_width` and `take`.
    """
    importance = measure_importance(model, calibration, across_tokens=across_tokens, across_windows=across_windows)
    config = trunk_of(model).config
    selection = select_width(
        importance,
        config,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=num_key_value_heads,
    )
    new = take(model, selection)
    if hidden_size is not None and hidden_size < config.hidden_size:
        _restore_norms(new, importance, selection)
    return new, selection


def _restore_norms(model: Trunk | SignalModel, importance: Importance, selection: Selection) -> None:
    """Let each norm give what it gave before the units went, in the mean."""
    offset = trunk_of(model).config.norm_offset
    for name, energy in importance.energy.items():
        gain = model.get_submodule(name).get_parameter("weight")
        with torch.no_grad():
            gain.copy_((gain + offset) * energy[selection.hidden].mean().sqrt() - offset)
