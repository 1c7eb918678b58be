"""Shape and features of the trunk: every family of models is one configuration of one decoder.

`families.py` reads and writes them as Hugging Face's `config.json`; `model.py` computes them in torch,
`bundle/onnx_graph.py` in ONNX.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from smallhold.errors import RecipeError
from smallhold.learn.rope import RopeScaling

FULL, SLIDING = "full_attention", "sliding_attention"


class Layer(NamedTuple):
    """What tells one layer from another.

    Attributes:
        window: Positions that it sees, itself included; None = all before.
        rope: Which rotary table turns its queries and keys; None = none does.
    """

    window: int | None
    rope: Literal["global", "local"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrunkConfig:
    """Shape of the trunk, in the words of Hugging Face's `config.json`; what is left out is plain Llama.

    Attributes:
        vocab_size: V.
        hidden_size: D.
        intermediate_size: Width of the gated MLP.
        num_hidden_layers: L.
        num_attention_heads: H.
        num_key_value_heads: Divides H.
        max_position_embeddings: Positions of context.
        rms_norm_eps: Added to the mean square.
        rope_theta: Base of the rotary frequencies.
        tie_word_embeddings: Whether the output head is the embedding.
        model_type: The family, for `config.json`.
        head_dim: Width of one head; 0 = hidden_size / num_attention_heads.
        partial_rotary_factor: Share of a head that is rotated, from its beginning.
        rope_scaling: How rotary positions are scaled, or None.
        local_rope_theta: Base in sliding layers, unscaled; None = as everywhere.
        unrotated_layers: Layers without any positions (NoPE), by index.
        sliding_window: Positions that a sliding layer sees, itself included.
        layer_types: `full_attention` or `sliding_attention` for each layer; empty = all full.
        attention_bias: Whether queries, keys and values have a bias.
        output_bias: Whether the attention's output has one.
        mlp_bias: Whether the MLP's three matrices have one.
        qk_norm: Whether each head's query and key pass an RMSNorm before they are rotated.
        query_pre_attn_scalar: Scores are divided by its root; None = head_dim.
        attention_softcap: Scores s become c * tanh(s / c); None = not.
        logit_softcap: The same for logits.
        activation: Of the MLP's gate.
        norm_offset: Added to every norm's weight: 1 where weights are stored around 0.
        has_post_norms: Whether attention and MLP are normalised again before they are added.
        embedding_scale: Looked up embeddings are multiplied by it; embeddings that are given are not.

    Raises:
        RecipeError: a shape that no runtime could run.
    """

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
    model_type: str = "llama"
    head_dim: int = 0
    partial_rotary_factor: float = 1.0
    rope_scaling: RopeScaling | None = None
    local_rope_theta: float | None = None
    unrotated_layers: tuple[int, ...] = ()
    sliding_window: int | None = None
    layer_types: tuple[str, ...] = ()
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    query_pre_attn_scalar: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    activation: Literal["silu", "gelu_tanh"] = "silu"
    norm_offset: float = 0.0
    has_post_norms: bool = False
    embedding_scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse shapes that no runtime could run."""
        if not self.head_dim:
            if self.hidden_size % self.num_attention_heads or self.hidden_size // self.num_attention_heads % 2:
                raise RecipeError(
                    f"hidden_size must split into heads of even size: got {self.hidden_size} for "
                    f"{self.num_attention_heads} heads"
                )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        if self.num_attention_heads % self.num_key_value_heads:
            raise RecipeError(
                f"num_key_value_heads must divide num_attention_heads: got {self.num_key_value_heads} "
                f"and {self.num_attention_heads}"
            )
        if self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
            raise RecipeError(
                f"rotary positions need an even part of a head: got {self.rotary_dim} of head_dim {self.head_dim}"
            )
        if self.rope_scaling is not None:
            self.rope_scaling.divisors(self.rope_theta, self.rotary_dim)  # refuses divisors of another head
        if self.layer_types and len(self.layer_types) != self.num_hidden_layers:
            raise RecipeError(
                f"layer_types: expected {self.num_hidden_layers}, one a layer, got {len(self.layer_types)}"
            )
        if unknown := sorted(set(self.layer_types) - {FULL, SLIDING}):
            raise RecipeError(f"layer_types: expected {FULL} or {SLIDING}, got {', '.join(unknown)}")
        if SLIDING in self.layer_types and (self.sliding_window or 0) < 1:
            raise RecipeError(f"sliding_window: expected 1 or more for sliding layers, got {self.sliding_window}")

    @property
    def rotary_dim(self) -> int:
        """Width of the part of a head that is rotated."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def attention_scale(self) -> float:
        """What scores are multiplied by."""
        return float((self.query_pre_attn_scalar or self.head_dim) ** -0.5)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Window and rotary table of each layer, in order."""
        found = []
        for i in range(self.num_hidden_layers):
            is_sliding = bool(self.layer_types) and self.layer_types[i] == SLIDING
            is_local = is_sliding and self.local_rope_theta is not None
            rope: Literal["global", "local"] | None = "local" if is_local else "global"
            found.append(
                Layer(self.sliding_window if is_sliding else None, None if i in self.unrotated_layers else rope)
            )
        return tuple(found)

    @property
    def is_plain_llama(self) -> bool:
        """Whether llama.cpp's architecture `llama` and the runtime `reference` compute this very model."""
        plain = TrunkConfig(vocab_size=self.vocab_size)
        features = (
            "partial_rotary_factor", "rope_scaling", "local_rope_theta", "unrotated_layers", "attention_bias",
            "output_bias", "mlp_bias", "qk_norm", "attention_softcap", "logit_softcap", "activation", "norm_offset",
            "has_post_norms", "embedding_scale",
        )  # fmt: skip
        has_windows = any(layer.window is not None for layer in self.layers)
        is_scaled = self.attention_scale != float(self.head_dim**-0.5)
        return not (has_windows or is_scaled or any(getattr(self, name) != getattr(plain, name) for name in features))
