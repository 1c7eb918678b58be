"""The same weights in every contestant's own form, made once from the shipped file; random ones of other shapes."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench.decide.workload import BUNDLE, GGUF, ROOT
from numpy.typing import NDArray
from safetensors.numpy import save

from smallhold.bundle.gguf import BLOCK_NAMES, NAMES, trunk_gguf, write_gguf
from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.rounding import quantize_weight
from smallhold.bundle.weights import GROUP_SIZE, RANGES, ModelWeights, QuantizedWeight, Weight
from smallhold.device.durable_file import write_durably
from smallhold.device.gguf import GgufFile, read_gguf, unpermute_rope
from smallhold.learn.checkpoint import Checkpoint
from smallhold.learn.hugging_face import parameter_shapes
from smallhold.learn.model import TrunkConfig

#: Random weights of these shapes: speed alone. The second is SmolLM2-135M's, the third Llama-3.2-1B's.
SHAPES = {
    "25M": TrunkConfig(
        vocab_size=8264,
        hidden_size=512,
        intermediate_size=1280,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
    ),
    "135M": TrunkConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=1024,
        rope_theta=100_000.0,
    ),
    "1B": TrunkConfig(
        vocab_size=128_256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=1024,
        rope_theta=500_000.0,
    ),
}
_GENAI_SECONDS = 900


def checkpoint(folder: Path) -> Path:
    """The trunk in Hugging Face's layout: float32, the values that the 8-bit integers stand for."""
    if not (folder / "config.json").exists():
        file = read_gguf(GGUF.read_bytes())
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / "model.safetensors", [save(_hugging_face(file), metadata={"format": "pt"})], mode=0o644)
        base = ROOT / "models" / "base"
        for name, source in (("tokenizer.json", BUNDLE), ("tokenizer_config.json", base)):
            write_durably(folder / name, [(source / name).read_bytes()], mode=0o644)
        config = json.loads((base / "config.json").read_text())
        config |= {"vocab_size": file.metadata["llama.vocab_size"], "torch_dtype": "float32"}
        write_durably(folder / "config.json", [json.dumps(config).encode()], mode=0o644)
    return folder


def four_bits(path: Path) -> Path:
    """The trunk rounded once more, to Q4_0."""
    if not path.exists():
        file = read_gguf(GGUF.read_bytes())
        tensors: dict[str, Weight] = {
            name: quantize_weight(tensor, 4) if file.encodings[name] == "Q8_0" else tensor
            for name, tensor in file.tensors.items()
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, [write_gguf(file.metadata | {"general.file_type": 2}, tensors)], mode=0o644)
    return path


def genai(folder: Path, precision: str, python: Path, source: Path) -> Path:
    """onnxruntime-genai's own build of the checkpoint, by its model builder.

    Raises:
        RuntimeError: the builder failed.
    """
    out = folder / precision
    if not (out / "peer.json").exists():
        out.mkdir(parents=True, exist_ok=True)
        script = ROOT / "bench" / "compress" / "peer.py"
        command = [str(python), str(script), f"genai-{precision}", str(source), str(out)]
        done = subprocess.run(  # noqa: S603 - a script of ours
            command, capture_output=True, text=True, timeout=_GENAI_SECONDS, check=False
        )
        if done.returncode:
            raise RuntimeError(f"onnxruntime-genai's builder failed: {done.stderr[-400:]}")
    return out / "genai"


def random_model(folder: Path, shape: str, bits: int) -> tuple[Path, Path]:
    """A model of random weights as GGUF and as our ONNX graph; the graph of the largest is left out, it is not run.

    Returns:
        Paths of the two; the second may not exist.
    """
    gguf, onnx = folder / f"{shape}-{bits}.gguf", folder / f"{shape}-{bits}.onnx"
    if not gguf.exists():
        config, rng = SHAPES[shape], np.random.default_rng(0)
        trunk: dict[str, Weight] = {}
        for name, extents in parameter_shapes(config).items():
            trunk[name] = _random(rng, extents, bits)
        weights = ModelWeights(Checkpoint(config, {}, {}, {}, folder), trunk, {})
        tokens = ["<pad>", "<bos>", "<eos>", *(f"token{i}" for i in range(3, config.vocab_size))]
        special = tokens[:3]
        folder.mkdir(parents=True, exist_ok=True)
        if shape != "1B":
            write_durably(onnx, [trunk_onnx(weights)], mode=0o644)
        write_durably(gguf, [trunk_gguf(weights, name=shape, tokens=tokens, special=special)], mode=0o644)
    return gguf, onnx


@dataclass(frozen=True, slots=True)
class Work:
    """What one token asks of a model: multiplications in its layers, and the bytes of their weights."""

    layer_macs: int
    layer_bytes: int


def work(gguf: Path) -> Work:
    """Of a GGUF file; embedding and output head are left out, a decision reads rows of them."""
    file = read_gguf(gguf.read_bytes())
    shapes = [
        (tensor.size, file.encodings[name])
        for name, tensor in file.tensors.items()
        if tensor.ndim == 2 and name.startswith("blk.")
    ]
    size = {"Q8_0": 34 / 32, "Q4_0": 18 / 32, "F16": 2.0, "F32": 4.0}
    return Work(sum(count for count, _ in shapes), round(sum(count * size[kind] for count, kind in shapes)))


def _random(rng: np.random.Generator, extents: tuple[int, ...], bits: int) -> Weight:
    if len(extents) == 1:
        return np.ones(extents, np.float32)
    low, high = RANGES[bits]
    values = rng.integers(low, high, size=extents, dtype=np.int8, endpoint=True)
    step = 0.02 / (high / 3**0.5)  # a standard deviation of .02
    return QuantizedWeight(values, np.full((extents[0], extents[1] // GROUP_SIZE), step, np.float16), bits)


def _hugging_face(file: GgufFile) -> dict[str, NDArray[np.float32]]:
    names = {theirs: ours for ours, theirs in NAMES.items()}
    blocks = {theirs: ours for ours, theirs in BLOCK_NAMES.items()}
    heads: dict[str, Any] = {
        "attn_q": file.metadata["llama.attention.head_count"],
        "attn_k": file.metadata["llama.attention.head_count_kv"],
    }
    found = {}
    for name, tensor in file.tensors.items():
        if name in names:
            found[names[name]] = tensor
            continue
        _, layer, part, _ = name.split(".")  # blk.3.attn_q.weight
        whole = unpermute_rope(tensor, heads[part]) if part in heads else tensor
        found[f"model.layers.{layer}.{blocks[part]}.weight"] = np.ascontiguousarray(whole)
    return found
