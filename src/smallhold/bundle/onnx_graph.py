"""The trunk as an ONNX graph with its key-value cache as plain input and output.

Inputs: `ids` (T,) int64, -1 where an embedding counts; `embeddings` (T, D); `past` (P, L, 2, KV, hd); `at` (K,) int64.
Outputs: `logits` (K, V) at the rows `at`; `present` (T, L, 2, KV, hd), the new keys and values alone.

The graph is written node by node rather than traced: it is small, the same bytes come out every time, and time
comes first in the cache so that the device can append in place (see `device/backends/onnx_runtime.py`).

Quantized matrices use `MatMulNBits` with accuracy_level 4: activations are rounded to 8 bits in groups of a row. Each
row is computed alone, so whole and chunked prefill agree, which per-tensor activation scales would break
(docs/decisions/0002); it is four times as fast as float32 activations here (docs/experiments.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from smallhold.bundle.weights import GROUP_SIZE, ModelWeights, QuantizedWeight, Weight, stack_rows, vector, weight_bytes
from smallhold.errors import InputError
from smallhold.learn.rope import RopeScaling
from smallhold.learn.trunk_config import Layer, TrunkConfig

_OPSET = 17
_ZERO_POINT = {8: 128, 4: 8}
_MOST_BYTES = 2**31 - 2**20  # protobuf's limit for one message, less what is not weights
_HIDDEN = np.finfo(np.float32).min


def trunk_onnx(weights: ModelWeights) -> bytes:
    """Serialise the graph; equal weights give equal bytes.

    Raises:
        InputError: the weights do not fit into one ONNX file of 2 GiB.
    """
    size = sum(weight_bytes(weight) for weight in weights.trunk.values())
    if size > _MOST_BYTES:
        raise InputError(
            f"the weights take {size / 2**30:.1f} GiB, and one ONNX file holds at most 2 GiB",
            hint="fewer bits a weight: --bits 8 or --bits 4",
        )
    graph = _Graph(weights.checkpoint.config)
    graph.build(weights.trunk)
    return graph.serialise()


class _Graph:
    """Collects nodes and constants; every method returns the name of a tensor."""

    def __init__(self, config: TrunkConfig) -> None:
        self.config = config
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def build(self, trunk: dict[str, Weight]) -> None:
        """Add everything from the doors to the logits."""
        c = self.config

        # (1) Both doors: look ids up, take the embedding where the id is -1.
        zero = self.constant("zero", np.array(0, np.int64))
        looked_up = self.look_up(self.op("Max", "ids", zero), trunk["model.embed_tokens.weight"])
        if c.embedding_scale != 1.0:
            looked_up = self.op("Mul", looked_up, self.number("embedding_scale", c.embedding_scale))
        is_token = self.op("Unsqueeze", self.op("GreaterOrEqual", "ids", zero), self.ints("axis_1", [1]))
        x = self.op("Where", is_token, looked_up, "embeddings")

        # (2) Positions P .. P + T - 1, the mask that hides what is later, and the rotary angles.
        one = self.constant("one", np.array(1, np.int64))
        num_past = self.op("Squeeze", self.op("Shape", "past", start=0, end=1))
        num_all = self.op("Add", num_past, self.op("Squeeze", self.op("Shape", "ids")))
        position = self.op("Range", num_past, num_all, one)
        everything = self.op("Range", zero, num_all, one)
        key_at = self.op("Unsqueeze", everything, self.ints("axis_0", [0]))
        query_at = self.op("Unsqueeze", position, self.ints("axis_1", [1]))
        is_visible = self.op("LessOrEqual", key_at, query_at)
        masks: dict[int | None, str] = {None: self.mask(is_visible)}
        if c.sliding_window is not None:
            first = self.op("Sub", query_at, self.constant("window", np.array(c.sliding_window, np.int64)))
            masks[c.sliding_window] = self.mask(self.op("And", is_visible, self.op("Greater", key_at, first)))
        self.tables = {"global": self.rope_tables("", c.rope_theta, c.rope_scaling)}
        if c.local_rope_theta is not None:
            self.tables["local"] = self.rope_tables("local_", c.local_rope_theta, None)
        self.start = self.op("Unsqueeze", num_past, self.ints("axis_0", [0]))

        # (3) Blocks.
        layers = self.split("past", 1, c.num_hidden_layers)
        present = []
        before_mlp = "pre_feedforward_layernorm" if c.has_post_norms else "post_attention_layernorm"
        h = self.norm(x, "model.layers.0.input_layernorm", trunk)
        for i, layer in enumerate(c.layers):
            prefix = f"model.layers.{i}"
            mixed, new = self.attention(h, layers[i], masks[layer.window], layer, f"{prefix}.self_attn", trunk)
            present.append(new)
            if c.has_post_norms:
                mixed = self.norm(mixed, f"{prefix}.post_attention_layernorm", trunk)
            h, x = self.add_and_norm(x, mixed, f"{prefix}.{before_mlp}", trunk)
            gate, up = self.split(self.linear(h, f"{prefix}.mlp", trunk, ("gate_proj", "up_proj")), 1, 2)
            gate = self.activate(gate)
            down = self.linear(self.op("Mul", gate, up), f"{prefix}.mlp", trunk, ("down_proj",))
            if c.has_post_norms:
                down = self.norm(down, f"{prefix}.post_feedforward_layernorm", trunk)
            if i + 1 < c.num_hidden_layers:
                h, x = self.add_and_norm(x, down, f"model.layers.{i + 1}.input_layernorm", trunk)
            else:
                x = self.op("Add", x, down)
        self.op("Concat", *present, axis=1, name="present")

        # (4) Logits at the rows that were asked for.
        h = self.norm(self.op("Gather", x, "at"), "model.norm", trunk)
        # A tied head multiplies by the very constants that ids are looked up in: they lie in the file once.
        name = "model.embed_tokens" if c.tie_word_embeddings else "lm_head"
        if c.logit_softcap is None:
            self.multiply(h, name, trunk[f"{name}.weight"], output="logits")
        else:
            self.cap(self.multiply(h, name, trunk[f"{name}.weight"]), c.logit_softcap, output="logits")

    def attention(
        self, h: str, past: str, mask: str, layer: Layer, prefix: str, trunk: dict[str, Weight]
    ) -> tuple[str, str]:
        """What attention adds, (T, D), and the new keys and values, (T, 1, 2, KV, hd)."""
        c = self.config
        heads, kv_heads, hd = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        group = heads // kv_heads
        # One product for all three, and one rotation: a step costs as much for its operators as for its numbers.
        projected = self.linear(h, prefix, trunk, ("q_proj", "k_proj", "v_proj"))
        turned, value = self.parts(projected, 1, ((heads + kv_heads) * hd, kv_heads * hd))
        if c.qk_norm:
            turned = self.norm_heads(turned, prefix, trunk)
        if layer.rope is not None:
            turned = self.rotate(turned, self.tables[layer.rope])
        query, key = self.parts(self.heads(turned, heads + kv_heads), 1, (heads, kv_heads))
        value = self.heads(value, kv_heads)
        new = self.op(  # (T, 1, 2, KV, hd)
            "Concat",
            self.op("Unsqueeze", key, self.ints("axes_1_2", [1, 2])),
            self.op("Unsqueeze", value, self.ints("axes_1_2", [1, 2])),
            axis=2,
        )
        cache = self.op("Concat", past, new, axis=0)  # (P + T, 1, 2, KV, hd)
        keys, values = self.split(cache, 2, 2)
        shape = self.ints("cache_shape", [-1, kv_heads, 1, hd])
        keys = self.op("Transpose", self.op("Reshape", keys, shape), perm=[1, 2, 3, 0])  # (KV, 1, hd, S)
        values = self.op("Transpose", self.op("Reshape", values, shape), perm=[1, 2, 0, 3])  # (KV, 1, S, hd)
        query = self.op("Reshape", query, self.ints("query_shape", [-1, kv_heads, group, hd]))
        query = self.op("Transpose", query, perm=[1, 2, 0, 3])  # (KV, G, T, hd)
        scale = self.number("scale", c.attention_scale)
        scores = self.op("Mul", self.op("MatMul", query, keys), scale)
        if c.attention_softcap is not None:
            scores = self.cap(scores, c.attention_softcap)
        weight = self.op("Softmax", self.op("Add", scores, mask), axis=-1)
        mixed = self.op("MatMul", weight, values)  # (KV, G, T, hd)
        mixed = self.op("Transpose", mixed, perm=[2, 0, 1, 3])
        mixed = self.op("Reshape", mixed, self.ints("merged_shape", [-1, heads * hd]))
        return self.linear(mixed, prefix, trunk, ("o_proj",)), new

    def mask(self, is_visible: str) -> str:
        """Zero where a key is seen, the lowest number where not: (T, P + T)."""
        shown = self.constant("shown", np.array(0, np.float32))
        return self.op("Where", is_visible, shown, self.constant("hidden", np.array(_HIDDEN, np.float32)))

    def rope_tables(self, prefix: str, theta: float, scaling: RopeScaling | None) -> tuple[str, str]:
        """Cosines and sines of every position, (max, rotary_dim / 2)."""
        width = self.config.rotary_dim
        frequency, amplitude = theta ** (-np.arange(0, width, 2) / width), 1.0
        if scaling is not None:
            frequency, amplitude = frequency / scaling.divisors(theta, width), scaling.attention_factor
        angle = np.arange(self.config.max_position_embeddings)[:, None] * frequency[None, :]
        return (
            self.constant(f"{prefix}cos", (np.cos(angle) * amplitude).astype(np.float32)),
            self.constant(f"{prefix}sin", (np.sin(angle) * amplitude).astype(np.float32)),
        )

    def activate(self, gate: str) -> str:
        """The gate of the MLP."""
        if self.config.activation == "gelu_tanh":
            return self.op("FastGelu", gate, domain="com.microsoft")
        return self.op("Mul", gate, self.op("Sigmoid", gate))

    def cap(self, x: str, softcap: float, output: str | None = None) -> str:
        """A soft limit, c * tanh(x / c)."""
        limit = self.number(f"softcap_{softcap:g}", softcap)
        return self.op("Mul", self.op("Tanh", self.op("Div", x, limit)), limit, name=output)

    def look_up(self, ids: str, weight: Weight) -> str:
        """Rows of the embedding (T, D)."""
        name = "model.embed_tokens"
        if not isinstance(weight, QuantizedWeight):
            if self.config.tie_word_embeddings:  # stored as the head multiplies by it: once
                return self.op("Transpose", self.op("Gather", self.transposed(name, weight), ids, axis=1), perm=[1, 0])
            return self.op("Gather", self.constant(name, weight), ids)
        values, scale = self.quantized(name, weight)
        steps = self.op("Cast", self.op("Gather", values, ids), to=TensorProto.FLOAT)  # (T, D / 32, bytes of a group)
        if weight.bits == 4:  # two steps a byte, the first in the low half
            radix = self.number("radix", 16)
            high = self.op("Floor", self.op("Div", steps, radix))
            low = self.op("Sub", steps, self.op("Mul", high, radix))
            last = self.ints("axis_3", [3])
            pairs = self.op("Concat", self.op("Unsqueeze", low, last), self.op("Unsqueeze", high, last), axis=3)
            steps = self.op("Reshape", pairs, self.ints("group_shape", [0, 0, GROUP_SIZE]))
        steps = self.op("Sub", steps, self.number("zero_point", _ZERO_POINT[weight.bits]))
        rows = self.op("Gather", self.op("Reshape", scale, self.ints("scale_shape", [*weight.scale.shape, 1])), ids)
        return self.op("Reshape", self.op("Mul", steps, rows), self.ints("row_shape", [-1, self.config.hidden_size]))

    def linear(self, x: str, prefix: str, trunk: dict[str, Weight], names: tuple[str, ...]) -> str:
        """Multiply x (T, I) by matrices that share it: (T, O), their outputs side by side."""
        name = f"{prefix}.{'_'.join(names)}"
        product = self.multiply(x, name, stack_rows([trunk[f"{prefix}.{part}.weight"] for part in names]))
        if f"{prefix}.{names[0]}.bias" not in trunk:
            return product
        bias = np.concatenate([vector(trunk, f"{prefix}.{part}.bias") for part in names])
        return self.op("Add", product, self.constant(f"{name}.bias", bias))

    def multiply(self, x: str, name: str, weight: Weight, output: str | None = None) -> str:
        """Multiply x (T, I) by one matrix: (T, O)."""
        if not isinstance(weight, QuantizedWeight):
            return self.op("MatMul", x, self.transposed(name, weight), name=output)
        rows, columns = weight.values.shape
        return self.op(
            "MatMulNBits",
            x,
            *self.quantized(name, weight),
            name=output,
            domain="com.microsoft",
            K=columns,
            N=rows,
            bits=weight.bits,
            block_size=GROUP_SIZE,
            accuracy_level=4,
        )

    def transposed(self, name: str, weight: NDArray[np.float32] | NDArray[np.float16]) -> str:
        """A matrix (O, I) as the constant (I, O)."""
        return self.constant(name, np.ascontiguousarray(weight.T))

    def quantized(self, name: str, weight: QuantizedWeight) -> tuple[str, str]:
        """Integers (O, I / 32, bytes of a group) and scales (O * I / 32,) as `MatMulNBits` stores them."""
        # Unsigned, around a zero point of 128 or 8; two integers of 4 bits a byte, the first in the low half.
        values = (weight.values.astype(np.int16) + _ZERO_POINT[weight.bits]).astype(np.uint8)
        if weight.bits == 4:
            values = np.bitwise_or(values[:, ::2], np.left_shift(values[:, 1::2], np.uint8(4)))
        values = values.reshape(len(values), weight.scale.shape[1], -1)
        return (
            self.constant(f"{name}.values", values),
            self.constant(f"{name}.scale", weight.scale.astype(np.float32).reshape(-1)),
        )

    def norm(self, x: str, name: str, trunk: dict[str, Weight]) -> str:
        """RMSNorm, spelled out."""
        return self.op("Mul", self.normalised(x), self.gain(name, trunk))

    def normalised(self, x: str) -> str:
        """X over the root of its mean square along the last axis."""
        epsilon = self.number("epsilon", self.config.rms_norm_eps)
        mean = self.op("ReduceMean", self.op("Mul", x, x), axes=[-1], keepdims=1)
        return self.op("Div", x, self.op("Sqrt", self.op("Add", mean, epsilon)))

    def norm_heads(self, x: str, prefix: str, trunk: dict[str, Weight]) -> str:
        """RMSNorm of every head of queries and keys that lie side by side, (T, (H + KV) * hd)."""
        c = self.config
        counts = {"q_norm": c.num_attention_heads, "k_norm": c.num_key_value_heads}
        gains = [
            np.tile(vector(trunk, f"{prefix}.{name}.weight") + np.float32(c.norm_offset), (count, 1))
            for name, count in counts.items()
        ]
        parts = self.heads(x, c.num_attention_heads + c.num_key_value_heads)
        gain = self.constant(f"{prefix}.q_norm_k_norm", np.concatenate(gains))
        whole = self.op("Mul", self.normalised(parts), gain)
        return self.op("Reshape", whole, self.ints("turned_shape", [-1, sum(counts.values()) * c.head_dim]))

    def gain(self, name: str, trunk: dict[str, Weight]) -> str:
        """What a norm multiplies by."""
        weight = vector(trunk, f"{name}.weight")
        offset = self.config.norm_offset
        return self.constant(name, weight if offset == 0.0 else weight + np.float32(offset))

    def add_and_norm(self, x: str, added: str, name: str, trunk: dict[str, Weight]) -> tuple[str, str]:
        """RMSNorm of x + added, and the sum itself, in one operator instead of seven."""
        base = f"norm_{len(self.nodes)}"
        gain = self.gain(name, trunk)
        node = helper.make_node(
            "SkipSimplifiedLayerNormalization",
            [x, added, gain],
            [base, "", "", f"{base}_sum"],
            name=base,
            domain="com.microsoft",
            epsilon=self.config.rms_norm_eps,
        )
        self.nodes.append(node)
        return base, f"{base}_sum"

    def heads(self, x: str, count: int) -> str:
        """(T, heads * hd) to (T, heads, hd)."""
        return self.op("Reshape", x, self.ints(f"heads_{count}", [-1, count, self.config.head_dim]))

    def rotate(self, x: str, tables: tuple[str, str]) -> str:
        """Rotary embedding of all heads side by side, (T, heads * hd), halves convention; from position P on."""
        c = self.config
        whole = self.op("Unsqueeze", x, self.ints("axis_0", [0]))
        partial: dict[str, Any] = {}
        if c.rotary_dim < c.head_dim:
            count = c.num_attention_heads + c.num_key_value_heads
            partial = {"rotary_embedding_dim": c.rotary_dim, "num_heads": count}
        turned = self.op("RotaryEmbedding", whole, self.start, *tables, domain="com.microsoft", **partial)
        return self.op("Squeeze", turned, self.ints("axis_0", [0]))

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A named initializer, once; float16 lies in the file and is widened when the runtime loads it."""
        if value.dtype == np.float16:
            if name not in self.constants:
                self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
                self.op("Cast", name, name=f"{name}.wide", to=TensorProto.FLOAT)
            return f"{name}.wide"
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def number(self, name: str, value: float) -> str:
        """A float32 constant."""
        return self.constant(name, np.array(value, np.float32))

    def ints(self, name: str, values: list[int]) -> str:
        """A shape or list of axes."""
        return self.constant(name, np.array(values, np.int64))

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add a node with one output."""
        name = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def split(self, x: str, axis: int, count: int) -> list[str]:
        """Equal parts along an axis."""
        return self._split([x], axis, count)

    def parts(self, x: str, axis: int, sizes: tuple[int, ...]) -> list[str]:
        """Parts of given sizes along an axis."""
        return self._split([x, self.ints(f"sizes_{'_'.join(map(str, sizes))}", list(sizes))], axis, len(sizes))

    def _split(self, inputs: list[str], axis: int, count: int) -> list[str]:
        base = f"split_{len(self.nodes)}"
        names = [f"{base}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node("Split", inputs, names, name=base, axis=axis))
        return names

    def serialise(self) -> bytes:
        """The finished model file."""
        c = self.config
        cache = (c.num_hidden_layers, 2, c.num_key_value_heads, c.head_dim)
        float32, int64 = TensorProto.FLOAT, TensorProto.INT64
        graph = helper.make_graph(
            self.nodes,
            "smallhold_trunk",
            [
                helper.make_tensor_value_info("ids", int64, ["T"]),
                helper.make_tensor_value_info("embeddings", float32, ["T", c.hidden_size]),
                helper.make_tensor_value_info("past", float32, ["P", *cache]),
                helper.make_tensor_value_info("at", int64, ["K"]),
            ],
            [
                helper.make_tensor_value_info("logits", float32, ["K", c.vocab_size]),
                helper.make_tensor_value_info("present", float32, ["T", *cache]),
            ],
            list(self.constants.values()),
        )
        model = helper.make_model(
            graph,
            producer_name="smallhold",
            opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)],
            ir_version=9,
        )
        helper.set_model_props(model, {"smallhold.context_length": str(c.max_position_embeddings)})
        onnx.checker.check_model(model)
        data: bytes = model.SerializeToString(deterministic=True)
        return data
