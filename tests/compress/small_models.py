"""Small random trunks with every feature that a parameter can depend on, and calibration sets for them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from smallhold.compress.calibration import CalibrationSet, trunk_of
from smallhold.learn.model import SignalModel, Trunk, TrunkConfig

_SHAPE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
#: Name to what differs from plain Llama.
FEATURES: dict[str, dict] = {
    "llama": {},
    "untied": {"tie_word_embeddings": False},
    "wide heads, QK-norm": {"head_dim": 32, "qk_norm": True},
    "all biases": {"attention_bias": True, "output_bias": True, "mlp_bias": True},
    "gemma": {
        "model_type": "gemma3_text", "head_dim": 32, "qk_norm": True, "norm_offset": 1.0, "has_post_norms": True,
        "embedding_scale": 8.0, "query_pre_attn_scalar": 32, "activation": "gelu_tanh",
        "sliding_window": 5, "local_rope_theta": 1e4,
        "layer_types": ("sliding_attention", "full_attention", "sliding_attention"),
    },
    "unrotated": {"unrotated_layers": (1,)},
}  # fmt: skip


def make_trunk(feature: str = "llama", seed: int = 0, **changes: object) -> Trunk:
    """A trunk whose logits are far from zero and whose attention is uneven."""
    torch.manual_seed(seed)
    return shake(Trunk(TrunkConfig(**{**_SHAPE, **FEATURES[feature], **changes})))  # type: ignore[arg-type]


def make_signal_model(feature: str = "llama", seed: int = 0, **changes: object) -> SignalModel:
    """Trunk and signal door of 4 channels and 3 static features."""
    torch.manual_seed(seed)
    return shake(SignalModel(TrunkConfig(**{**_SHAPE, **FEATURES[feature], **changes}), 4, 3))  # type: ignore[arg-type]


def shake(model):  # type: ignore[no-untyped-def]
    """Random weights of full size in effect; no gain and no bias has its neutral value."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
            else:
                parameter.add_(torch.empty_like(parameter).uniform_(-0.4, 0.4))
    return model.eval()


def tokens(rows: int = 6, length: int = 16, *, vocab_size: int = 96, seed: int = 0) -> torch.Tensor:
    """(rows, length) random ids."""
    return torch.randint(vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))


def patients(rows: int = 5, length: int = 8) -> CalibrationSet:
    """Text and patients."""
    source = torch.Generator().manual_seed(1)
    return CalibrationSet(
        tokens=tokens(),
        channels=torch.randn(rows, length, 4, generator=source),
        static=torch.randn(rows, 3, generator=source),
        batch_size=4,
    )


def logits_of(model: Trunk | SignalModel, ids: torch.Tensor | None = None) -> torch.Tensor:
    """Logits (B, T, V) of ids."""
    trunk = trunk_of(model)
    with torch.no_grad():
        return trunk(trunk.embed(tokens() if ids is None else ids))


def signal_logits_of(model: SignalModel) -> torch.Tensor:
    """Logits of the first five tokens at every bin."""
    calibration = patients()
    with torch.no_grad():
        return model.choice_logits(calibration.channels, calibration.static, torch.arange(5))


Progress = Callable[[int, int], None]


def no_progress(done: int, total: int) -> None:
    """Show nothing."""
