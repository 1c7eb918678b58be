"""The families of models that are known, and `config.json` of each: what is read into `TrunkConfig` and written again.

A family is a row of `FAMILIES`: what `transformers` assumes where a file is silent, and the features that all its
models have. Everything else is read from the file. What no configuration of the decoder computes is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from smallhold.errors import RecipeError
from smallhold.learn.rope import ROPE_TYPES, RopeScaling
from smallhold.learn.trunk_config import FULL, SLIDING, TrunkConfig

_ACTIVATIONS: dict[str, Literal["silu", "gelu_tanh"]] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
}
_NUMBERS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
#: Members that every family writes alike.
_COMMON = (
    *_NUMBERS,
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "tie_word_embeddings",
)
#: A checkpoint's fused matrix to the matrices of ours whose rows it holds one below the other.
Fused = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What sets one `model_type` apart.

    Attributes:
        architecture: The class of `transformers`.
        defaults: Members of `config.json` as `transformers` assumes them where they are missing.
        features: Members of `TrunkConfig` that all models of the family share.
        windows: Which layers slide where `layer_types` is missing: none, `every` one, those from `max_window_layers`
            on (`late`), or all but each n-th (`pattern`).
        activation: The member of `config.json` that names the MLP's activation.
        fused: Matrices that lie fused in a checkpoint.
    """

    architecture: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, Any] = field(default_factory=dict)
    windows: Literal["none", "every", "late", "pattern"] = "none"
    activation: str = "hidden_act"
    fused: Fused = field(default_factory=dict)


_GEMMA_FEATURES = {"norm_offset": 1.0, "has_post_norms": True}
_GEMMA_DEFAULTS = {
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}

FAMILIES: dict[str, Family] = {
    "llama": Family(architecture="LlamaForCausalLM", defaults={"max_position_embeddings": 2048}),
    "mistral": Family(
        architecture="MistralForCausalLM",
        defaults={"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
        windows="every",
    ),
    "qwen2": Family(
        architecture="Qwen2ForCausalLM",
        defaults={"max_window_layers": 28, "sliding_window": 4096},
        features={"attention_bias": True, "output_bias": False},
        windows="late",
    ),
    "qwen3": Family(
        architecture="Qwen3ForCausalLM",
        defaults={"head_dim": 128, "max_window_layers": 28, "sliding_window": 4096},
        features={"qk_norm": True},
        windows="late",
    ),
    "smollm3": Family(
        architecture="SmolLM3ForCausalLM",
        defaults={
            "num_key_value_heads": 4, "no_rope_layer_interval": 4, "rope_theta": 2e6, "tie_word_embeddings": True,
        },
    ),
    "gemma2": Family(
        architecture="Gemma2ForCausalLM",
        defaults={
            **_GEMMA_DEFAULTS,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "max_position_embeddings": 8192,
            "num_key_value_heads": 4,
            "sliding_window_pattern": 2,
        },
        features=_GEMMA_FEATURES,
        windows="pattern",
        activation="hidden_activation",
    ),
    "gemma3_text": Family(
        architecture="Gemma3ForCausalLM",
        defaults={
            **_GEMMA_DEFAULTS,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 4,
            "rope_local_base_freq": 1e4,
            "rope_theta": 1e6,
            "sliding_window_pattern": 6,
        },
        features={**_GEMMA_FEATURES, "qk_norm": True},
        windows="pattern",
        activation="hidden_activation",
    ),
    "phi3": Family(
        architecture="Phi3ForCausalLM",
        defaults={
            "max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        },
        windows="every",
        fused={
            "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
        },
    ),
}  # fmt: skip

_DEFAULTS: dict[str, Any] = {
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}


def config_from_json(value: dict[str, Any]) -> TrunkConfig:
    """Read a `config.json`.

    Raises:
        RecipeError: another family, or a variant that the decoder does not compute; the message names it.
    """
    family = _family(value)
    v = {**_DEFAULTS, **family.defaults, **value}
    _refuse_variants(v)
    for name in _NUMBERS:
        if not isinstance(v.get(name), int) or v[name] < 1:
            raise RecipeError(f"config.json: {name}: expected a whole number above 0, got {v.get(name)!r}")
    if v[family.activation] not in _ACTIVATIONS:
        raise RecipeError(
            f"config.json: {family.activation}: expected one of {', '.join(_ACTIVATIONS)}, got {v[family.activation]!r}"
        )
    try:
        types = _layer_types(v, family)
        return TrunkConfig(
            **{name: v[name] for name in _NUMBERS},
            **_rope(v, types),
            **{
                "model_type": v["model_type"],
                "num_key_value_heads": v.get("num_key_value_heads") or v["num_attention_heads"],
                "head_dim": v.get("head_dim") or 0,
                "rms_norm_eps": v["rms_norm_eps"],
                "tie_word_embeddings": bool(v["tie_word_embeddings"]),
                "sliding_window": v.get("sliding_window") if SLIDING in types else None,
                "layer_types": () if types == (FULL,) * v["num_hidden_layers"] else types,
                "unrotated_layers": _unrotated_layers(v),
                "attention_bias": bool(v.get("attention_bias")),
                "output_bias": bool(v.get("attention_bias")),
                "mlp_bias": bool(v.get("mlp_bias")),
                "query_pre_attn_scalar": v.get("query_pre_attn_scalar"),
                "attention_softcap": v.get("attn_logit_softcapping"),
                "logit_softcap": v.get("final_logit_softcapping"),
                "activation": _ACTIVATIONS[v[family.activation]],
                # `transformers` multiplies by the root as float32.
                "embedding_scale": v["hidden_size"] ** 0.5 if family.features.get("norm_offset") else 1.0,
                **family.features,
            },
        )
    except (TypeError, ValueError, KeyError, ArithmeticError, AttributeError) as error:
        raise RecipeError(f"config.json: describes no model: {error}") from error


def config_to_json(config: TrunkConfig) -> dict[str, Any]:
    """`config.json` as `transformers` reads it; `config_from_json` gives the same configuration again.

    Raises:
        RecipeError: the family has no name for a feature that is set.
    """
    family = FAMILIES[config.model_type]
    common = {name: getattr(config, name) for name in _COMMON}
    act = next(name for name, activation in _ACTIVATIONS.items() if activation == config.activation)
    value: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": config.model_type,
        **common,
        "head_dim": config.head_dim,
        family.activation: act,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "torch_dtype": "float32",
    }
    if config == TrunkConfig(**common, head_dim=config.head_dim):
        # The marks are the first entries of every vocabulary of ours.
        return value | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    types = config.layer_types or (FULL,) * config.num_hidden_layers
    value |= {
        "layer_types": list(types),
        "sliding_window": config.sliding_window,
        "use_sliding_window": config.sliding_window is not None,
        "max_window_layers": 0,
        "no_rope_layers": [int(layer.rope is not None) for layer in config.layers],
        "query_pre_attn_scalar": config.query_pre_attn_scalar,
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
        "original_max_position_embeddings": config.max_position_embeddings,
        "rope_parameters": _rope_to_json(config),
        # The tokenizer knows them; the family's own numbers may lie beyond the vocabulary.
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")),
    }
    if family.windows in ("none", "every") and config.model_type != "smollm3":
        del value["layer_types"]  # not a member there
    if config.rope_scaling is not None and config.rope_scaling.original_max_position_embeddings:
        value["original_max_position_embeddings"] = config.rope_scaling.original_max_position_embeddings
    if config_from_json(value) != config:
        raise RecipeError(f"model_type {config.model_type}: its config.json cannot say every feature of {config}")
    return value


def _family(value: dict[str, Any]) -> Family:
    name = value.get("model_type")
    if name in FAMILIES:
        return FAMILIES[name]
    kind = ""
    if "vision_config" in value or "text_config" in value:
        kind = ", a model of images and text"
    elif any("experts" in key and number for key, number in value.items()):
        kind = ", a mixture of experts"
    raise RecipeError(
        f"config.json: model_type {name!r}{kind} is not supported: expected one of {', '.join(FAMILIES)}",
        hint="docs/reference/models.md lists the families",
    )


def _refuse_variants(v: dict[str, Any]) -> None:
    if v.get("quantization_config"):
        method = v["quantization_config"].get("quant_method", "unknown")
        raise RecipeError(
            f"config.json: quantization_config: weights quantized by {method!r} are not read",
            hint="take the model's float checkpoint; --bits quantizes it",
        )
    for name in ("use_bidirectional_attention", "num_experts", "num_local_experts", "vision_config"):
        if v.get(name):
            raise RecipeError(f"config.json: {name}: not supported, got {v[name]!r:.80}")


def _layer_types(v: dict[str, Any], family: Family) -> tuple[str, ...]:
    count = v["num_hidden_layers"]
    if v.get("layer_types"):
        return tuple(v["layer_types"])
    window = v.get("sliding_window")
    match family.windows:
        case "every":
            return tuple([SLIDING if window else FULL] * count)
        case "late":
            first = v["max_window_layers"] if v.get("use_sliding_window") and window else count
            return tuple(SLIDING if i >= first else FULL for i in range(count))
        case "pattern":
            return tuple(SLIDING if (i + 1) % v["sliding_window_pattern"] else FULL for i in range(count))
    unrotated = _unrotated_layers(v) if v.get("use_sliding_window") and window else ()
    return tuple(SLIDING if i in unrotated else FULL for i in range(count))


def _unrotated_layers(v: dict[str, Any]) -> tuple[int, ...]:
    if v["model_type"] != "smollm3":
        return ()
    interval = v["no_rope_layer_interval"]
    count = v["num_hidden_layers"]
    is_rotated = v.get("no_rope_layers") or [(i + 1) % interval for i in range(count)]  # named for its zeros
    return tuple(i for i in range(count) if not is_rotated[i])


def _rope(v: dict[str, Any], types: tuple[str, ...]) -> dict[str, Any]:
    """The members of `TrunkConfig` that concern positions; old files and new ones put them in different places."""
    given: dict[str, Any] = v.get("rope_scaling") or v.get("rope_parameters") or {}
    local_theta = v.get("rope_local_base_freq")
    if FULL in given or SLIDING in given:
        local = given.get(SLIDING) or {}
        if _rope_type(local) != "default":
            raise RecipeError(f"config.json: scaled rotary positions in sliding layers: got {_rope_type(local)!r}")
        local_theta = local.get("rope_theta", local_theta)
        given = given.get(FULL) or {}
    kind, context = _rope_type(given), v["max_position_embeddings"]
    if v["model_type"] == "phi3" and kind in ("su", "yarn"):  # older names of the same
        kind = "longrope"
    scaling = None
    if kind != "default":
        scaling = _scaling(given | {"rope_type": kind}, v)
        if kind == "longrope":  # the short factors are those of this many positions
            context = min(context, scaling.original_max_position_embeddings)
    return {
        "max_position_embeddings": context,
        "rope_theta": float(given.get("rope_theta") or v["rope_theta"]),
        "partial_rotary_factor": float(given.get("partial_rotary_factor") or v.get("partial_rotary_factor") or 1.0),
        "rope_scaling": scaling,
        "local_rope_theta": float(local_theta) if local_theta and SLIDING in types else None,
    }


def _rope_type(given: dict[str, Any]) -> str:
    return str(given.get("rope_type") or given.get("type") or "default")


def _scaling(given: dict[str, Any], v: dict[str, Any]) -> RopeScaling:
    kind, context = given["rope_type"], v["max_position_embeddings"]
    original = v.get("original_max_position_embeddings") or given.get("original_max_position_embeddings") or context
    factor = given.get("factor") or (context / original if kind in ("yarn", "longrope") else None)
    if factor is None and kind in ROPE_TYPES:
        raise RecipeError(f"config.json: rope_type {kind}: factor is missing")
    factor = float(factor or 1.0)
    amplitude = given.get("attention_factor")
    if amplitude is None:
        amplitude = _amplitude(kind, factor, original, given)
    numbers = ("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow")
    return RopeScaling(
        rope_type=kind,
        factor=1.0 if kind == "longrope" else factor,
        original_max_position_embeddings=0 if kind == "linear" else int(original),
        **{name: float(given[name]) for name in numbers if given.get(name)},
        truncate=bool(given.get("truncate", True)),
        short_factor=tuple(map(float, given.get("short_factor") or ())),
        attention_factor=float(amplitude),
    )


def _amplitude(kind: str, factor: float, original: int, given: dict[str, Any]) -> float:
    """What cosines and sines are multiplied by where the file does not say it."""
    if kind == "longrope" and factor > 1:
        return math.sqrt(1 + math.log(factor) / math.log(original))
    if kind != "yarn" or factor <= 1:
        return 1.0
    one, other = given.get("mscale"), given.get("mscale_all_dim")
    if one and other:
        return float((0.1 * one * math.log(factor) + 1) / (0.1 * other * math.log(factor) + 1))
    return 0.1 * math.log(factor) + 1


def _rope_to_json(config: TrunkConfig) -> dict[str, Any]:
    value: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.partial_rotary_factor != 1:
        value["partial_rotary_factor"] = config.partial_rotary_factor
    if (scaling := config.rope_scaling) is not None:
        plain = RopeScaling(rope_type="linear")
        value |= {name: item for name, item in asdict(scaling).items() if item != getattr(plain, name)}
        value["rope_type"] = scaling.rope_type
        if scaling.rope_type in ("yarn", "longrope"):
            value["attention_factor"] = scaling.attention_factor
        if scaling.rope_type == "longrope":
            value["short_factor"] = value["long_factor"] = list(scaling.short_factor)
        else:
            value["factor"] = scaling.factor
    if config.model_type != "gemma3_text":
        return value
    local = {"rope_type": "default", "rope_theta": config.local_rope_theta or 1e4}
    return {FULL: value, SLIDING: local}
