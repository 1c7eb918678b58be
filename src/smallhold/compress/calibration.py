"""Calibration: what a model's modules see while it reads a few windows, for pruning and quantization."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from smallhold.errors import ShapeError
from smallhold.learn.model import SignalModel, Trunk

#: Reads one batch of a module's input or output, (B, T, I).
See = Callable[[Tensor], None]
_NOTHING: Mapping[str, See] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CalibrationSet:
    """Windows of text, patients for the signal door, or both; training data, never test rows.

    Attributes:
        tokens: (N, T) int64 ids, whole windows without padding, which would count as text; None for no text.
        channels: (M, T, C) float32 bins of the signal door; None for no patients.
        static: (M, S) float32, with `channels`.
        batch_size: Windows read at once; changes memory, not the result.
    """

    tokens: Tensor | None = None
    channels: Tensor | None = None
    static: Tensor | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Refuse a set that holds nothing or half a door."""
        if self.tokens is None and self.channels is None:
            raise ShapeError("calibration: expected tokens (N, T) or channels (M, T, C), got neither")
        if (self.channels is None) != (self.static is None):
            raise ShapeError("calibration: channels and static belong together, got one of them")
        if self.tokens is not None and (self.tokens.ndim != 2 or not self.tokens.numel()):
            raise ShapeError(f"calibration: expected tokens (N, T), got {tuple(self.tokens.shape)}")

    def embeddings(self, model: Trunk | SignalModel) -> Iterator[Tensor]:
        """What the trunk reads, (B, T, D), batch by batch; patients pass through the model's encoder."""
        if self.tokens is not None:
            for ids in torch.split(self.tokens, self.batch_size):
                yield trunk_of(model).embed(ids)
        if self.channels is not None and self.static is not None:
            if not isinstance(model, SignalModel):
                raise ShapeError("calibration: patients need a model with a signal door, got a trunk alone")
            parts = (torch.split(whole, self.batch_size) for whole in (self.channels, self.static))
            for channels, static in zip(*parts, strict=True):
                yield model.encoder(channels, static)


def trunk_of(model: Trunk | SignalModel) -> Trunk:
    """The trunk of a model with or without a signal door."""
    return model.trunk if isinstance(model, SignalModel) else model


def observe(
    model: Trunk | SignalModel,
    calibration: CalibrationSet,
    *,
    inputs: Mapping[str, See] = _NOTHING,
    outputs: Mapping[str, See] = _NOTHING,
) -> None:
    """Let the model read the calibration set and show what passes through some modules.

    The model runs in evaluation mode without gradients and is left as it was.

    Args:
        model: Read only.
        calibration: What to read.
        inputs: Module name, as in `named_modules`, to what reads its first input.
        outputs: Module name to what reads its output.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules())

    def before(see: See) -> Callable[..., None]:
        return lambda _module, args: see(args[0])

    def after(see: See) -> Callable[..., None]:
        return lambda _module, _args, output: see(output)

    was_training = model.training
    handles = [modules[name].register_forward_pre_hook(before(see)) for name, see in inputs.items()]
    handles += [modules[name].register_forward_hook(after(see)) for name, see in outputs.items()]
    try:
        model.eval()
        with torch.no_grad():
            for embeddings in calibration.embeddings(model):
                trunk_of(model).hidden(embeddings)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
