"""The trunk and its signal door in torch, with Hugging Face's parameter names.

The trunk is Llama (arXiv:2302.13971): its state dictionary and `config.json` are those of
`transformers.LlamaForCausalLM`, which loads a checkpoint of ours unchanged. The signal encoder sits in front: it
turns one bin's channels into one embedding, a soft token.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smallhold.decide.signal_encoder import HINGE
from smallhold.errors import RecipeError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrunkConfig:
    """Shape of the trunk, in the words of Hugging Face's `config.json`."""

    vocab_size: int
    hidden_size: int = 128
    intermediate_size: int = 352
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    max_position_embeddings: int = 64
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        """Refuse shapes that no runtime could run."""
        if self.hidden_size % self.num_attention_heads or self.head_dim % 2:
            raise RecipeError(
                f"hidden_size must split into heads of even size: got {self.hidden_size} for "
                f"{self.num_attention_heads} heads"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise RecipeError(
                f"num_key_value_heads must divide num_attention_heads: got {self.num_key_value_heads} "
                f"and {self.num_attention_heads}"
            )

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_attention_heads

    def to_json(self) -> dict[str, Any]:
        """`config.json` as `transformers` reads it."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **asdict(self),
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "torch_dtype": "float32",
            "pad_token_id": 0,  # the marks are the first entries of every vocabulary of ours
            "bos_token_id": 1,
            "eos_token_id": 2,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TrunkConfig:
        """Read a `config.json`.

        Raises:
            RecipeError: another architecture, or a variant (biases, scaled rotary positions) that is not supported.
        """
        if value.get("model_type") != "llama":
            raise RecipeError(f"config.json: model_type: expected 'llama', got {value.get('model_type')!r}")
        rope = value.get("rope_parameters") or {}
        unsupported = [key for key in ("attention_bias", "mlp_bias", "rope_scaling") if value.get(key)]
        if unsupported or rope.get("rope_type", "default") != "default":
            raise RecipeError(f"config.json: not supported yet: {', '.join(unsupported) or 'scaled rope_parameters'}")
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        known.setdefault("rope_theta", rope.get("rope_theta", 10000.0))
        try:
            return cls(**known)
        except TypeError as error:
            raise RecipeError(f"config.json: {error}") from error


class Trunk(nn.Module):
    """Llama decoder whose state dictionary equals `LlamaForCausalLM`'s."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.config = config
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.model.layers = nn.ModuleList(_Block(config) for _ in range(config.num_hidden_layers))
        self.model.norm = _RMSNorm(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        frequency = config.rope_theta ** (-torch.arange(0, config.head_dim, 2) / config.head_dim)
        angle = torch.arange(config.max_position_embeddings)[:, None] * frequency[None, :]
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                # Two residual writes a layer: their scale shrinks with depth, so that the stream's does not grow.
                depth = 2 * config.num_hidden_layers if name.endswith(("o_proj.weight", "down_proj.weight")) else 1
                nn.init.normal_(parameter, std=0.02 / depth**0.5)

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
        x = embeddings
        for block in self.blocks:
            x = block(x, mask, self.cos[:length], self.sin[:length])
        return self.model.norm(x)  # type: ignore[no-any-return, operator]

    def forward(self, embeddings: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        return self.lm_head(self.hidden(embeddings))  # type: ignore[no-any-return]


class _RMSNorm(nn.Module):
    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.epsilon = config.rms_norm_eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.epsilon).to(x.dtype)


class _Attention(nn.Module):
    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        width, head_dim = config.hidden_size, config.head_dim
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.q_proj = nn.Linear(width, self.num_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, self.num_kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, self.num_kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(self.num_heads * head_dim, width, bias=False)

    def forward(self, x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query = _rotate(self.q_proj(x).view(batch, length, self.num_heads, -1).transpose(1, 2), cos, sin)
        key = _rotate(self.k_proj(x).view(batch, length, self.num_kv_heads, -1).transpose(1, 2), cos, sin)
        value = self.v_proj(x).view(batch, length, self.num_kv_heads, -1).transpose(1, 2)
        group = self.num_heads // self.num_kv_heads
        if group > 1:
            key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        weight = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5  # (B, H, T, T)
        weight = torch.softmax(weight.float() + mask, dim=-1).to(value.dtype)
        return self.o_proj((weight @ value).transpose(1, 2).reshape(batch, length, -1))  # type: ignore[no-any-return]


class _MLP(nn.Module):
    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.input_layernorm = _RMSNorm(config)
        self.self_attn = _Attention(config)
        self.post_attention_layernorm = _RMSNorm(config)
        self.mlp = _MLP(config)
        self.dropout = _SequenceDropout()

    def forward(self, x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), mask, cos, sin))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))  # type: ignore[no-any-return]


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
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


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
        return hidden @ self.trunk.lm_head.weight[choices].T.to(hidden.dtype)
