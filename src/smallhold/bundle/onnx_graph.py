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

from smallhold.bundle.weights import GROUP_SIZE, ModelWeights, QuantizedWeight, Weight, stack_rows
from smallhold.errors import ShapeError
from smallhold.learn.model import TrunkConfig

_OPSET = 17
_ZERO_POINT = {8: 128, 4: 8}
_HIDDEN = np.finfo(np.float32).min


def trunk_onnx(weights: ModelWeights) -> bytes:
    """Serialise the graph; equal weights give equal bytes."""
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
        heads, kv_heads, hd = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        group = heads // kv_heads

        # (1) Both doors: look ids up, take the embedding where the id is -1.
        zero = self.constant("zero", np.array(0, np.int64))
        looked_up = self.look_up(self.op("Max", "ids", zero), trunk["model.embed_tokens.weight"])
        is_token = self.op("Unsqueeze", self.op("GreaterOrEqual", "ids", zero), self.ints("axis_1", [1]))
        x = self.op("Where", is_token, looked_up, "embeddings")

        # (2) Positions P .. P + T - 1, the mask that hides what is later, and the rotary angles.
        one = self.constant("one", np.array(1, np.int64))
        num_past = self.op("Squeeze", self.op("Shape", "past", start=0, end=1))
        num_all = self.op("Add", num_past, self.op("Squeeze", self.op("Shape", "ids")))
        position = self.op("Range", num_past, num_all, one)
        everything = self.op("Range", zero, num_all, one)
        is_visible = self.op(
            "LessOrEqual",
            self.op("Unsqueeze", everything, self.ints("axis_0", [0])),
            self.op("Unsqueeze", position, self.ints("axis_1", [1])),
        )
        mask = self.op(
            "Where",
            is_visible,
            self.constant("shown", np.array(0, np.float32)),
            self.constant("hidden", np.array(_HIDDEN, np.float32)),
        )
        frequency = c.rope_theta ** (-np.arange(0, hd, 2) / hd)
        angle = np.arange(c.max_position_embeddings)[:, None] * frequency[None, :]
        self.cos = self.constant("cos", np.cos(angle).astype(np.float32))  # (max, hd / 2)
        self.sin = self.constant("sin", np.sin(angle).astype(np.float32))
        self.start = self.op("Unsqueeze", num_past, self.ints("axis_0", [0]))

        # (3) Blocks.
        layers = self.split("past", 1, c.num_hidden_layers)
        present = []
        h = self.norm(x, "model.layers.0.input_layernorm", trunk)
        for i in range(c.num_hidden_layers):
            prefix = f"model.layers.{i}"
            # One product for all three, and one rotation: a step costs as much for its operators as for its numbers.
            projected = self.linear(h, f"{prefix}.self_attn", trunk, ("q_proj", "k_proj", "v_proj"))
            turned, value = self.parts(projected, 1, ((heads + kv_heads) * hd, kv_heads * hd))
            query, key = self.parts(self.heads(self.rotate(turned), heads + kv_heads), 1, (heads, kv_heads))
            value = self.heads(value, kv_heads)
            new = self.op(  # (T, 1, 2, KV, hd)
                "Concat",
                self.op("Unsqueeze", key, self.ints("axes_1_2", [1, 2])),
                self.op("Unsqueeze", value, self.ints("axes_1_2", [1, 2])),
                axis=2,
            )
            present.append(new)
            cache = self.op("Concat", layers[i], new, axis=0)  # (P + T, 1, 2, KV, hd)
            keys, values = self.split(cache, 2, 2)
            shape = self.ints("cache_shape", [-1, kv_heads, 1, hd])
            keys = self.op("Transpose", self.op("Reshape", keys, shape), perm=[1, 2, 3, 0])  # (KV, 1, hd, S)
            values = self.op("Transpose", self.op("Reshape", values, shape), perm=[1, 2, 0, 3])  # (KV, 1, S, hd)
            query = self.op("Reshape", query, self.ints("query_shape", [-1, kv_heads, group, hd]))
            query = self.op("Transpose", query, perm=[1, 2, 0, 3])  # (KV, G, T, hd)
            scale = self.constant("scale", np.array(hd**-0.5, np.float32))
            scores = self.op("Add", self.op("Mul", self.op("MatMul", query, keys), scale), mask)
            mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), values)  # (KV, G, T, hd)
            mixed = self.op("Transpose", mixed, perm=[2, 0, 1, 3])
            mixed = self.op("Reshape", mixed, self.ints("merged_shape", [-1, heads * hd]))
            mixed = self.linear(mixed, f"{prefix}.self_attn", trunk, ("o_proj",))
            h, x = self.add_and_norm(x, mixed, f"{prefix}.post_attention_layernorm", trunk)
            gate, up = self.split(self.linear(h, f"{prefix}.mlp", trunk, ("gate_proj", "up_proj")), 1, 2)
            gate = self.op("Mul", gate, self.op("Sigmoid", gate))
            down = self.linear(self.op("Mul", gate, up), f"{prefix}.mlp", trunk, ("down_proj",))
            if i + 1 < c.num_hidden_layers:
                h, x = self.add_and_norm(x, down, f"model.layers.{i + 1}.input_layernorm", trunk)
            else:
                x = self.op("Add", x, down)
        self.op("Concat", *present, axis=1, name="present")

        # (4) Logits at the rows that were asked for.
        h = self.norm(self.op("Gather", x, "at"), "model.norm", trunk)
        # A tied head multiplies by the very constants that ids are looked up in: they lie in the file once.
        name = "model.embed_tokens" if c.tie_word_embeddings else "lm_head"
        self.multiply(h, name, trunk[f"{name}.weight"], output="logits")

    def look_up(self, ids: str, weight: Weight) -> str:
        """Rows of the embedding (T, D).

        Raises:
            ShapeError: the embedding is in 4 bits; rows are cut out of whole bytes.
        """
        name = "model.embed_tokens"
        if not isinstance(weight, QuantizedWeight):
            if self.config.tie_word_embeddings:  # stored as the head multiplies by it: once
                return self.op("Transpose", self.op("Gather", self.transposed(name, weight), ids, axis=1), perm=[1, 0])
            return self.op("Gather", self.constant(name, weight), ids)
        if weight.bits != 8:
            raise ShapeError(f"embedding: expected float32 or 8 bits, got {weight.bits}")
        values, scale = self.quantized(name, weight)
        steps = self.op("Cast", self.op("Gather", values, ids), to=TensorProto.FLOAT)  # (T, D / 32, 32)
        steps = self.op("Sub", steps, self.constant("zero_point", np.array(_ZERO_POINT[8], np.float32)))
        rows = self.op("Gather", self.op("Reshape", scale, self.ints("scale_shape", [*weight.scale.shape, 1])), ids)
        return self.op("Reshape", self.op("Mul", steps, rows), self.ints("row_shape", [-1, self.config.hidden_size]))

    def linear(self, x: str, prefix: str, trunk: dict[str, Weight], names: tuple[str, ...]) -> str:
        """Multiply x (T, I) by matrices that share it: (T, O), their outputs side by side."""
        name = f"{prefix}.{'_'.join(names)}"
        return self.multiply(x, name, stack_rows([trunk[f"{prefix}.{part}.weight"] for part in names]))

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

    def transposed(self, name: str, weight: NDArray[np.float32]) -> str:
        """A float32 matrix (O, I) as the constant (I, O)."""
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
        epsilon = self.constant("epsilon", np.array(self.config.rms_norm_eps, np.float32))
        mean = self.op("ReduceMean", self.op("Mul", x, x), axes=[-1], keepdims=1)
        scaled = self.op("Div", x, self.op("Sqrt", self.op("Add", mean, epsilon)))
        return self.op("Mul", scaled, self.constant(name, np.asarray(trunk[f"{name}.weight"])))

    def add_and_norm(self, x: str, added: str, name: str, trunk: dict[str, Weight]) -> tuple[str, str]:
        """RMSNorm of x + added, and the sum itself, in one operator instead of seven."""
        base = f"norm_{len(self.nodes)}"
        gain = self.constant(name, np.asarray(trunk[f"{name}.weight"]))
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

    def rotate(self, x: str) -> str:
        """Rotary embedding of all heads side by side, (T, heads * hd), halves convention; from position P on."""
        whole = self.op("Unsqueeze", x, self.ints("axis_0", [0]))
        turned = self.op("RotaryEmbedding", whole, self.start, self.cos, self.sin, domain="com.microsoft")
        return self.op("Squeeze", turned, self.ints("axis_0", [0]))

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A named initializer, once."""
        self.constants.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

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
