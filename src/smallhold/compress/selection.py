"""Cut a model down to chosen layers, heads, channels, hidden units and vocabulary rows.

All structured pruning ends here: a method decides what stays, `take` slices every parameter along the axes that its
name has. Shapes stay uniform over the layers, because no runtime of ours reads anything else; which heads and channels
stay may differ from layer to layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from smallhold.compress.calibration import trunk_of
from smallhold.errors import RecipeError, ShapeError
from smallhold.learn.model import SignalModel, Trunk, TrunkConfig

Model = TypeVar("Model", Trunk, SignalModel)

#: Last parts of a parameter's name to the axes of its tensor; "" is an axis that is never cut.
_AXES: dict[str, tuple[str, ...]] = {
    "embed_tokens.weight": ("vocabulary", "hidden"),
    "lm_head.weight": ("vocabulary", "hidden"),
    "lm_head.bias": ("vocabulary",),
    "q_proj.weight": ("heads", "hidden"),
    "q_proj.bias": ("heads",),
    "k_proj.weight": ("kv_heads", "hidden"),
    "k_proj.bias": ("kv_heads",),
    "v_proj.weight": ("kv_heads", "hidden"),
    "v_proj.bias": ("kv_heads",),
    "o_proj.weight": ("hidden", "heads"),
    "o_proj.bias": ("hidden",),
    "gate_proj.weight": ("channels", "hidden"),
    "gate_proj.bias": ("channels",),
    "up_proj.weight": ("channels", "hidden"),
    "up_proj.bias": ("channels",),
    "down_proj.weight": ("hidden", "channels"),
    "down_proj.bias": ("hidden",),
    "encoder.basis.weight": ("hidden", ""),
    "encoder.basis.bias": ("hidden",),
    "encoder.up.weight": ("encoder_channels", "hidden"),
    "encoder.up.bias": ("encoder_channels",),
    "encoder.down.weight": ("hidden", "encoder_channels"),
    "encoder.down.bias": ("hidden",),
    "encoder.static.weight": ("hidden", ""),
    "encoder.static.bias": ("hidden",),
}
_COUNTS = {
    "channels": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "hidden": "hidden_size",
    "vocabulary": "vocab_size",
}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Selection:
    """Indices that stay, int64, in the order they are to have; None keeps everything.

    Attributes:
        layers: (L',) layers.
        channels: (L, F') FFN channels of each old layer.
        heads: (L, H') query heads of each old layer, those of one key-value head together.
        kv_heads: (L, KV') key-value heads of each old layer.
        hidden: (D',) units of the residual stream.
        encoder_channels: (2 D',) inner channels of the signal encoder; needed where `hidden` is cut.
        vocabulary: (V',) rows.
    """

    layers: Tensor | None = None
    channels: Tensor | None = None
    heads: Tensor | None = None
    kv_heads: Tensor | None = None
    hidden: Tensor | None = None
    encoder_channels: Tensor | None = None
    vocabulary: Tensor | None = None


def take(model: Model, selection: Selection) -> Model:
    """A new model of what was selected; the old one is left alone.

    Args:
        model: A trunk, or trunk and signal door.
        selection: What stays. A selection of everything in order gives equal weights.

    Raises:
        RecipeError: the shape that results is not one that a trunk can have.
        ShapeError: a parameter is of an unknown kind, or a query head would lose its key-value head.
    """
    trunk = trunk_of(model)
    _check_groups(selection, trunk.config)
    config = _config(trunk.config, selection)
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights that are overwritten at once
        new = _empty_like(model, config)
    state = {
        new_name: _cut(name, tensor, selection, trunk.config)
        for name, tensor in model.state_dict().items()
        if (new_name := _renamed(name, selection.layers)) is not None
    }
    try:
        new.load_state_dict(state)
    except RuntimeError as error:
        raise ShapeError(f"selection: the parts do not make a model: {error}") from error
    if selection.hidden is not None and _scales_by_width(trunk.config):
        _keep_embedding_scale(trunk_of(new), (trunk.config.hidden_size / config.hidden_size) ** 0.5)
    return new.to(next(iter(state.values())).dtype).train(model.training)


def _empty_like(model: Model, config: TrunkConfig) -> Model:
    if isinstance(model, SignalModel):
        encoder = model.encoder
        return SignalModel(config, encoder.basis.in_features // 4, encoder.static.in_features)
    return Trunk(config)


def _config(old: TrunkConfig, selection: Selection) -> TrunkConfig:
    changes: dict[str, Any] = {
        field: chosen.shape[-1] for part, field in _COUNTS.items() if (chosen := getattr(selection, part)) is not None
    }
    if selection.layers is not None:
        kept = selection.layers.tolist()
        changes["num_hidden_layers"] = len(kept)
        changes["layer_types"] = tuple(old.layer_types[i] for i in kept if old.layer_types)
        changes["unrotated_layers"] = tuple(i for i, layer in enumerate(kept) if layer in old.unrotated_layers)
    if selection.hidden is not None and _scales_by_width(old):
        changes["embedding_scale"] = len(selection.hidden) ** 0.5
    return replace(old, **changes)  # head_dim is a field of its own: heads keep their width


def _scales_by_width(config: TrunkConfig) -> bool:
    """Whether embeddings are multiplied by the root of the width, as Gemma's are."""
    return bool(config.embedding_scale == config.hidden_size**0.5)


def _keep_embedding_scale(trunk: Trunk, ratio: float) -> None:
    """Put into the weights what a narrower Gemma no longer multiplies embeddings by."""
    with torch.no_grad():
        trunk.get_parameter("model.embed_tokens.weight").mul_(ratio)
        if trunk.config.tie_word_embeddings:  # the head grew along, so what it reads shrinks
            gain, offset = trunk.get_parameter("model.norm.weight"), trunk.config.norm_offset
            gain.copy_((gain + offset) / ratio - offset)


def _check_groups(selection: Selection, config: TrunkConfig) -> None:
    if selection.heads is None and selection.kv_heads is None:
        return
    if selection.heads is None or selection.kv_heads is None:
        raise ShapeError("selection: heads and kv_heads belong together, got one of them")
    count, kv_count = selection.heads.shape[1], selection.kv_heads.shape[1]
    if not kv_count or count % kv_count:
        raise RecipeError(f"heads: the number of key-value heads must divide that of heads: got {count} and {kv_count}")
    read = selection.heads // (config.num_attention_heads // config.num_key_value_heads)
    if not torch.equal(read, selection.kv_heads.repeat_interleave(count // kv_count, dim=1)):
        raise ShapeError("selection: a query head stays without the key-value head that it reads")


def _renamed(name: str, layers: Tensor | None) -> str | None:
    """The parameter's name in the new model; None when its layer goes."""
    layer = _layer_of(name)
    if layer is None or layers is None:
        return name
    place = torch.nonzero(layers == layer)
    return name.replace(f"layers.{layer}.", f"layers.{int(place[0])}.", 1) if len(place) else None


def _layer_of(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[parts.index("layers") + 1]) if "layers" in parts else None


def _cut(name: str, tensor: Tensor, selection: Selection, config: TrunkConfig) -> Tensor:
    for dim, axis in enumerate(axes_of(name, tensor, config)):
        chosen = getattr(selection, axis) if axis else None
        if chosen is None:
            continue
        if chosen.ndim == 2:
            chosen = chosen[_layer_of(name)]
        if axis in ("heads", "kv_heads"):  # a head is `head_dim` neighbouring rows
            chosen = (chosen[:, None] * config.head_dim + torch.arange(config.head_dim)).flatten()
        tensor = tensor.index_select(dim, chosen)
    return tensor.clone()


def axes_of(name: str, tensor: Tensor, config: TrunkConfig) -> tuple[str, ...]:
    """Axes of a parameter, "" for one that is never cut.

    Raises:
        ShapeError: a parameter of an unknown kind.
    """
    for ending in (".".join(name.split(".")[-3:]), ".".join(name.split(".")[-2:])):
        if ending in _AXES:
            return _AXES[ending]
    if tensor.numel() <= 1:
        return ("",) * tensor.ndim
    if tensor.ndim == 1 and "norm" in name:
        if "q_norm" in name or "k_norm" in name:
            if len(tensor) == config.head_dim:  # one gain for all heads
                return ("",)
            return ("heads",) if "q_norm" in name else ("kv_heads",)
        if len(tensor) == config.hidden_size:
            return ("hidden",)
    raise ShapeError(f"parameter {name} {tuple(tensor.shape)}: no rule says how to cut it")
