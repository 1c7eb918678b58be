"""The trunk and its signal door in torch, with Hugging Face's parameter names.

The trunk is Llama (arXiv:2302.13971) with the features of `TrunkConfig`: its state dictionary is that of the family's
class in `transformers`, but for matrices that lie fused there (`hugging_face.py`). A feature that a configuration does
not have adds no operation: a plain Llama computes the same bits as if the others did not exist. The signal encoder
sits in front: it turns one bin's channels into one embedding, a soft token.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smallhold.decide.signal_encoder import HINGE
from smallhold.learn.trunk_config import TrunkConfig

__all__ = ["SignalEncoderModule", "SignalModel", "Trunk", "TrunkConfig"]


class Trunk(nn.Module):
    """Decoder of one family; its state dictionary equals that of the family's class, fused matrices apart."""

    cos: Tensor
    sin: Tensor
    local_cos: Tensor
    local_sin: Tensor

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.config = config
        self.model = nn.Module()
        self.model.embed_tokens = _Embedding(config)
        self.model.layers = nn.ModuleList(_Block(config) for _ in config.layers)
        self.model.norm = _RMSNorm(config, config.hidden_size)
        self.lm_head = _Head(config)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self._register_rope("", config.rope_theta, config)
        if config.local_rope_theta is not None:
            self._register_rope("local_", config.local_rope_theta, replace(config, rope_scaling=None))
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                # Two residual writes a layer: their scale shrinks with depth, so that the stream's does not grow.
                depth = 2 * config.num_hidden_layers if name.endswith(("o_proj.weight", "down_proj.weight")) else 1
                nn.init.normal_(parameter, std=0.02 / depth**0.5)
            elif name.endswith(".bias"):
                nn.init.zeros_(parameter)

    def _register_rope(self, prefix: str, theta: float, config: TrunkConfig) -> None:
        width = config.rotary_dim
        frequency = theta ** (-torch.arange(0, width, 2) / width)
        amplitude = 1.0
        if (scaling := config.rope_scaling) is not None:
            frequency = frequency / torch.tensor(scaling.divisors(theta, width).tolist())
            amplitude = scaling.attention_factor
        angle = torch.arange(config.max_position_embeddings)[:, None] * frequency[None, :]
        self.register_buffer(f"{prefix}cos", angle.cos() * amplitude, persistent=False)
        self.register_buffer(f"{prefix}sin", angle.sin() * amplitude, persistent=False)

    @property
    def blocks(self) -> list[nn.Module]:
        """The decoder layers in order."""
        return list(self.model.layers.children())  # type: ignore[union-attr]

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings (B, T, D) of token ids (B, T)."""
        return self.model.embed_tokens(ids)  # type: ignore[no-any-return, operator]

    def hidden(self, embeddings: Tensor) -> Tensor:
        """Final normalised states (B, T, D) of embeddings (B, T, D), causal."""
        length = embeddings.shape[1]
        # An explicit mask: the fused attention's backward pass is slow on CPUs at short lengths (docs/experiments.md).
        mask = torch.full((length, length), float("-inf"), device=embeddings.device).triu(1)
        windowed: dict[int | None, Tensor] = {None: mask}
        if (width := self.config.sliding_window) is not None:
            windowed[width] = mask + torch.full_like(mask, float("-inf")).tril(-width)
        turns: dict[str | None, tuple[Tensor, Tensor] | None] = {None: None}
        turns["global"] = (self.cos[:length], self.sin[:length])
        if self.config.local_rope_theta is not None:
            turns["local"] = (self.local_cos[:length], self.local_sin[:length])
        x = embeddings
        for block, layer in zip(self.blocks, self.config.layers, strict=True):
            x = block(x, windowed[layer.window], turns[layer.rope])
        return self.model.norm(x)  # type: ignore[no-any-return, operator]

    def choice_logits(self, hidden: Tensor, choices: Tensor) -> Tensor:
        """Logits (..., K) of the vocabulary rows `choices` (K,), of final states (..., D)."""
        return _cap(hidden @ self.lm_head.weight[choices].T.to(hidden.dtype), self.config.logit_softcap)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        return self.lm_head(self.hidden(embeddings))  # type: ignore[no-any-return]


class _Embedding(nn.Embedding):
    def __init__(self, config: TrunkConfig) -> None:
        super().__init__(config.vocab_size, config.hidden_size)
        self.scale = config.embedding_scale

    def forward(self, ids: Tensor) -> Tensor:
        x = super().forward(ids)
        return x if self.scale == 1.0 else x * self.scale


class _Head(nn.Linear):
    def __init__(self, config: TrunkConfig) -> None:
        super().__init__(config.hidden_size, config.vocab_size, bias=False)
        self.softcap = config.logit_softcap

    def forward(self, x: Tensor) -> Tensor:
        return _cap(super().forward(x), self.softcap)


class _RMSNorm(nn.Module):
    def __init__(self, config: TrunkConfig, width: int) -> None:
        super().__init__()
        self.offset, self.epsilon = config.norm_offset, config.rms_norm_eps
        self.weight = nn.Parameter(torch.full((width,), 1.0 - self.offset))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.offset == 0.0 else self.weight + self.offset
        return F.rms_norm(x.float(), weight.shape, weight, self.epsilon).to(x.dtype)


class _Attention(nn.Module):
    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        width, head_dim = config.hidden_size, config.head_dim
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.scale, self.softcap = config.attention_scale, config.attention_softcap
        self.q_proj = nn.Linear(width, self.num_heads * head_dim, bias=config.attention_bias)
        self.k_proj = nn.Linear(width, self.num_kv_heads * head_dim, bias=config.attention_bias)
        self.v_proj = nn.Linear(width, self.num_kv_heads * head_dim, bias=config.attention_bias)
        self.o_proj = nn.Linear(self.num_heads * head_dim, width, bias=config.output_bias)
        self.has_norms = config.qk_norm
        if self.has_norms:
            self.q_norm, self.k_norm = _RMSNorm(config, head_dim), _RMSNorm(config, head_dim)

    def forward(self, x: Tensor, mask: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        batch, length, _ = x.shape
        query = self.q_proj(x).view(batch, length, self.num_heads, -1).transpose(1, 2)
        key = self.k_proj(x).view(batch, length, self.num_kv_heads, -1).transpose(1, 2)
        value = self.v_proj(x).view(batch, length, self.num_kv_heads, -1).transpose(1, 2)
        if self.has_norms:
            query, key = self.q_norm(query), self.k_norm(key)
        if turn is not None:
            query, key = _rotate(query, *turn), _rotate(key, *turn)
        group = self.num_heads // self.num_kv_heads
        if group > 1:
            key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        weight = torch.softmax(self._scores(query, key, mask).float(), dim=-1).to(value.dtype)  # (B, H, T, T)
        return self.o_proj((weight @ value).transpose(1, 2).reshape(batch, length, -1))  # type: ignore[no-any-return]

    def _scores(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
        """(B, H, T, T); scale and mask belong to the product, since each pass over so many numbers takes as long."""
        if self.softcap is not None:
            return _cap(query @ key.transpose(2, 3) * self.scale, self.softcap).float() + mask
        start = mask.to(query.dtype).expand(query.shape[0] * query.shape[1], -1, -1)
        scores = torch.baddbmm(start, query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=self.scale)
        return scores.view(*query.shape[:2], *scores.shape[1:])


class _MLP(nn.Module):
    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        width, hidden, has_bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.is_gelu = config.activation == "gelu_tanh"
        self.gate_proj = nn.Linear(width, hidden, bias=has_bias)
        self.up_proj = nn.Linear(width, hidden, bias=has_bias)
        self.down_proj = nn.Linear(hidden, width, bias=has_bias)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        gate = F.gelu(gate, approximate="tanh") if self.is_gelu else F.silu(gate)
        return self.down_proj(gate * self.up_proj(x))  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.input_layernorm = _RMSNorm(config, config.hidden_size)
        self.self_attn = _Attention(config)
        # Gemma gives this name to the norm after attention, the others to the one before the MLP.
        self.post_attention_layernorm = _RMSNorm(config, config.hidden_size)
        self.has_post_norms = config.has_post_norms
        if self.has_post_norms:
            self.pre_feedforward_layernorm = _RMSNorm(config, config.hidden_size)
            self.post_feedforward_layernorm = _RMSNorm(config, config.hidden_size)
        self.mlp = _MLP(config)
        self.dropout = _SequenceDropout()

    def forward(self, x: Tensor, mask: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        mixed = self.self_attn(self.input_layernorm(x), mask, turn)
        if not self.has_post_norms:
            x = x + self.dropout(mixed)
            return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))  # type: ignore[no-any-return]
        x = x + self.dropout(self.post_attention_layernorm(mixed))
        mixed = self.mlp(self.pre_feedforward_layernorm(x))
        return x + self.dropout(self.post_feedforward_layernorm(mixed))  # type: ignore[no-any-return]


class _SequenceDropout(nn.Module):
    """Dropout with one mask for a sequence and channel, shared over time: cheap to draw, and no hour leaks another."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = 0.0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = torch.rand(x.shape[0], 1, x.shape[2], dtype=torch.float32, device=x.device) >= self.rate
        return x * (keep / (1 - self.rate)).to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first 2 * cos.shape[-1] channels of every head, in halves; the others pass."""
    width = 2 * cos.shape[-1]
    first, second = x[..., :width].float().chunk(2, dim=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    if width < x.shape[-1]:
        turned.append(x[..., width:].float())
    return torch.cat(turned, dim=-1).to(x.dtype)


def _cap(x: Tensor, softcap: float | None) -> Tensor:
    return x if softcap is None else softcap * torch.tanh(x / softcap)


class SignalEncoderModule(nn.Module):
    """Torch twin of `decide.signal_encoder.SignalEncoder`, which documents the arithmetic."""

    def __init__(self, num_channels: int, num_static: int, width: int) -> None:
        super().__init__()
        self.basis = nn.Linear(4 * num_channels, width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.static = nn.Linear(num_static, width)

    def forward(self, channels: Tensor, static: Tensor) -> Tensor:
        """Prefix and bins as embeddings (B, 1 + T, D) of channels (B, T, C) and static features (B, S)."""
        basis = torch.cat([channels, F.relu(channels - HINGE), F.relu(-channels - HINGE), channels.abs()], dim=-1)
        h = self.basis(basis)
        h = h + self.down(F.silu(self.up(h)))
        return torch.cat([self.static(static)[:, None], h], dim=1)


class SignalModel(nn.Module):
    """Trunk and signal door of one task; the decision is read from the logits of two vocabulary rows."""

    def __init__(self, config: TrunkConfig, num_channels: int, num_static: int) -> None:
        super().__init__()
        self.trunk = Trunk(config)
        self.encoder = SignalEncoderModule(num_channels, num_static, config.hidden_size)

    def set_dropout(self, rate: float) -> None:
        """Dropout rate inside the trunk's blocks while training."""
        for module in self.modules():
            if isinstance(module, _SequenceDropout):
                module.rate = rate

    def choice_logits(self, channels: Tensor, static: Tensor, choices: Tensor) -> Tensor:
        """Logits of closed choices at every bin.

        Args:
            channels: (B, T, C).
            static: (B, S).
            choices: (K,) vocabulary rows.

        Returns:
            (B, T, K); entry t has seen the prefix and the bins up to t.
        """
        hidden = self.trunk.hidden(self.encoder(channels, static))[:, 1:]
        return self.trunk.choice_logits(hidden, choices)
