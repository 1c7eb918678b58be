"""The weight files that are compared: trained weights in float32 and as they ship, and random ones of real families."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conformance import rounding
from conformance.compare import FLOAT32, ROUNDED, FloatArray, Tolerance
from conformance.prompts import Prompt, hospital_prompts, story_prompts, take
from smallhold.bundle.bring_gguf import read_gguf_source
from smallhold.bundle.gguf import trunk_gguf
from smallhold.bundle.onnx_graph import trunk_onnx
from smallhold.bundle.rounding import encode_weight
from smallhold.bundle.weights import ModelWeights, Weight
from smallhold.device.backends.reference import ReferenceBackend
from smallhold.device.gguf import read_gguf
from smallhold.learn.checkpoint import Checkpoint
from smallhold.learn.llama2c import read_llama2c, read_llama2c_tokenizer
from smallhold.learn.trunk_config import TrunkConfig

ROOT = Path(__file__).resolve().parents[1]
HOSPITAL = ROOT / "models" / "hospital"
KEYS = ROOT / "models" / "trusted_keys"
#: Of a model that has a share of the positions only, where a slow runtime's share of it would say nothing.
FEWEST = 40
#: Beside a patient in words and one in signal tokens, each in pieces.
PIECES_POSITIONS = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model in the files of every runtime, what it is asked, and what is expected.

    Attributes:
        name: For tables.
        gguf: Weight file.
        onnx: The same integers as a graph.
        vocab_size: V.
        tolerance: How far a runtime may be off.
        prompts: In the order in which fewer positions are taken.
        expected: Logits (T, V) of each prompt, from float32 arithmetic on the weights that the file holds.
        moves: (T,) of each prompt, the unit of `ROUNDED`; None where activations are not rounded.
        share: Of the positions that a runtime can afford; 1 for the models that the table is about.
    """

    name: str
    gguf: Path
    onnx: Path
    vocab_size: int
    tolerance: Tolerance
    prompts: list[Prompt]
    expected: list[FloatArray]
    moves: list[FloatArray] | None = None
    share: float = 1.0

    def asked(self, positions: int, *, embeddings: bool) -> Iterator[tuple[Prompt, FloatArray, FloatArray | None]]:
        """Prompts of so many positions, or as many as there are, with what is expected of each and its `moves`.

        Args:
            positions: Of all prompts together; the last one is cut.
            embeddings: Whether the runtime takes embeddings too.
        """
        moves = self.moves or [None] * len(self.prompts)
        rows = zip(self.prompts, self.expected, moves, strict=True)
        rows = [row for row in rows if embeddings or not row[0].has_embeddings]
        most = max(min(positions, FEWEST), round(positions * self.share))
        cut = take([prompt for prompt, *_ in rows], most)
        for prompt, (_, expected, moved) in zip(cut, rows, strict=False):
            yield prompt, expected[: len(prompt)], None if moved is None else moved[: len(prompt)]


def stories260k(data: Path, folder: Path, positions: int) -> Model:
    """The model of llama2.c that tells stories, in float32.

    Args:
        data: Folder of data sets.
        folder: Where the files go.
        positions: How many are asked about.

    Raises:
        DataError: the checkpoint is no such thing.
        OSError: there is none.
    """
    place = data / "weights" / "stories260K"
    trunk = read_llama2c((place / "stories260K.bin").read_bytes())
    tokenizer = read_llama2c_tokenizer((place / "tok512.bin").read_bytes())
    tokens = [tokenizer.id_to_token(number) or "" for number in range(trunk.config.vocab_size)]
    state = {name: array.numpy() for name, array in trunk.state_dict().items()}
    if trunk.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    gguf, onnx = write_files(folder, "stories260K", trunk.config, dict(state), tokens)
    prompts = story_prompts(gguf.read_bytes(), folder, positions)
    return _with_oracle("stories260K, float32", gguf, onnx, FLOAT32, prompts)


def hospital(folder: Path, positions: int) -> list[Model]:
    """The shipped model of 8 bits, and the same weights as float32 and in 4 bits."""
    shipped = HOSPITAL / "gguf" / "trunk.gguf"
    data = shipped.read_bytes()
    source, meta = read_gguf_source(shipped), read_gguf(data).metadata
    assert source.config is not None  # noqa: S101 - only a graph has none
    prompts = hospital_prompts(HOSPITAL, KEYS, data, folder, positions)
    as_shipped = _with_oracle("hospital, 8 bits", shipped, HOSPITAL / "onnx" / "trunk.onnx", ROUNDED, prompts)
    found = [as_shipped]
    for bits, tolerance in ((32, FLOAT32), (4, ROUNDED)):
        trunk = {name: encode_weight(name, weight, bits) for name, weight in source.trunk.items()}
        tokens, merges = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.merges"]
        name = "hospital, float32" if bits == 32 else f"hospital, {bits} bits"
        gguf, onnx = write_files(folder, f"hospital-{bits}bit", source.config, trunk, tokens, merges)
        if bits == 32:  # the very numbers that 8 bits stand for, so that the same is expected
            found.append(replace(as_shipped, name=name, gguf=gguf, onnx=onnx, tolerance=tolerance, moves=None))
        else:
            few = take(prompts, max(1, positions // 10))
            found.append(replace(_with_oracle(name, gguf, onnx, tolerance, few), share=0.1))
    return found


def write_files(
    folder: Path, name: str, config: TrunkConfig, trunk: dict[str, Weight], tokens: list[str], merges: Any = ()
) -> tuple[Path, Path]:
    """Weights of plain Llama as a GGUF file and as a graph."""
    weights = ModelWeights(Checkpoint(config, {}, {}, {}, Path()), trunk, {})
    special = {token for token in tokens if token.startswith("<") and token.endswith(">")}
    gguf, onnx = folder / f"{name}.gguf", folder / f"{name}.onnx"
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(gguf, trunk_gguf(weights, name=name, tokens=tokens, merges=merges, special=special))
    replace_file(onnx, trunk_onnx(weights))
    return gguf, onnx


def replace_file(path: Path, data: bytes) -> None:
    """Write a file that can be made again: whole or not at all, but without waiting for the disk."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    partial.replace(path)


def _with_oracle(name: str, gguf: Path, onnx: Path, tolerance: Tolerance, prompts: list[Prompt]) -> Model:
    expected = rounding.logits(ReferenceBackend(gguf.read_bytes()), prompts)
    return Model(
        name=name,
        gguf=gguf,
        onnx=onnx,
        vocab_size=expected[0].shape[1],
        tolerance=tolerance,
        prompts=prompts,
        expected=expected,
        moves=rounding.moves(gguf, prompts, expected) if tolerance is ROUNDED else None,
    )
