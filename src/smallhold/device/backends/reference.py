"""The oracle: plain Llama's forward pass in numpy, slow and obvious, on the GGUF weights.

Every other runtime is judged against this one, on plain Llama: the models that we train, SmolLM2 and their like. It
computes no other family (docs/reference/models.md); those are judged against `transformers`. A file with tensors that
plain Llama does not have is refused, not computed without them.

Source of the architecture: Touvron et al. 2023, arXiv:2302.13971 (RMSNorm before each block, rotary positions,
SwiGLU), grouped queries as in Ainslie et al. 2023, arXiv:2305.13245.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smallhold.device.backends.contract import (
    FloatArray,
    Inputs,
    check_at,
    check_capacity,
    check_rewind,
    check_rows,
    split_doors,
)
from smallhold.device.gguf import read_gguf, unpermute_rope
from smallhold.errors import BackendError


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: FloatArray  # (D,)
    query: FloatArray  # (H * hd, D)
    key: FloatArray  # (KV * hd, D)
    value: FloatArray  # (KV * hd, D)
    output: FloatArray  # (D, H * hd)
    mlp_norm: FloatArray  # (D,)
    gate: FloatArray  # (F, D)
    up: FloatArray  # (F, D)
    down: FloatArray  # (D, F)


class ReferenceBackend:
    """A model in memory as plain float32 arrays."""

    name = "reference"

    def __init__(self, gguf: bytes) -> None:
        """Read the weights.

        Raises:
            BackendError: not a GGUF file of the llama architecture, a tensor is missing, or there is one that plain
                Llama does not have: a bias, a norm of queries, divisors of rotary frequencies.
        """
        file = read_gguf(gguf)
        meta, tensors = file.metadata, file.tensors
        if meta.get("general.architecture") != "llama":
            raise BackendError(f"GGUF architecture: expected 'llama', got {meta.get('general.architecture')!r}")
        try:
            self.num_heads = int(meta["llama.attention.head_count"])
            self.num_kv_heads = int(meta["llama.attention.head_count_kv"])
            self.width = int(meta["llama.embedding_length"])
            self.context_length = int(meta["llama.context_length"])
            self.norm_epsilon = float(meta["llama.attention.layer_norm_rms_epsilon"])
            rope_base = float(meta.get("llama.rope.freq_base", 10000.0))
            self.embedding = tensors["token_embd.weight"]
            self.final_norm = tensors["output_norm.weight"]
            self.head = tensors.get("output.weight", self.embedding)  # absent means tied
            self.layers = [
                _Layer(
                    attention_norm=tensors[f"blk.{i}.attn_norm.weight"],
                    query=unpermute_rope(tensors[f"blk.{i}.attn_q.weight"], self.num_heads),
                    key=unpermute_rope(tensors[f"blk.{i}.attn_k.weight"], self.num_kv_heads),
                    value=tensors[f"blk.{i}.attn_v.weight"],
                    output=tensors[f"blk.{i}.attn_output.weight"],
                    mlp_norm=tensors[f"blk.{i}.ffn_norm.weight"],
                    gate=tensors[f"blk.{i}.ffn_gate.weight"],
                    up=tensors[f"blk.{i}.ffn_up.weight"],
                    down=tensors[f"blk.{i}.ffn_down.weight"],
                )
                for i in range(int(meta["llama.block_count"]))
            ]
        except KeyError as error:
            raise BackendError(f"GGUF file lacks {error.args[0]!r}") from error
        except (ValueError, TypeError, ArithmeticError) as error:
            raise BackendError(f"GGUF file describes no model: {error}") from error
        if unknown := sorted(set(tensors) - _expected_names(len(self.layers))):
            raise BackendError(f"GGUF file holds tensors that plain Llama does not have: {', '.join(unknown[:3])}")
        self.vocab_size = len(self.embedding)
        self.head_dim = len(self.layers[0].query) // self.num_heads
        frequency = rope_base ** (-np.arange(0, self.head_dim, 2) / self.head_dim)  # (hd / 2,)
        angle = np.arange(self.context_length)[:, None] * frequency[None, :]
        self.cos, self.sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)

    def session(self) -> ReferenceSession:
        """An empty sequence."""
        return ReferenceSession(self)

    def forward(
        self, ids: NDArray[np.int64], embeddings: FloatArray, past: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Run new positions against the cache.

        Args:
            ids: (T,), -1 where `embeddings` counts.
            embeddings: (T, D).
            past: (P, L, 2, KV, hd) keys and values of the positions before.

        Returns:
            logits (T, V), and the keys and values of the new positions (T, L, 2, KV, hd).
        """
        num_new, num_past = len(ids), len(past)
        position = np.arange(num_past, num_past + num_new)
        visible = np.arange(num_past + num_new)[None, :] <= position[:, None]  # (T, P + T)
        x = np.where(ids[:, None] >= 0, self.embedding[np.maximum(ids, 0)], embeddings)  # (T, D)
        present = np.empty((num_new, *past.shape[1:]), dtype=np.float32)
        group = self.num_heads // self.num_kv_heads
        for i, layer in enumerate(self.layers):
            h = self._activations(self._norm(x, layer.attention_norm))
            query = self._rotate((h @ layer.query.T).reshape(num_new, self.num_heads, -1), position)
            present[:, i, 0] = self._rotate((h @ layer.key.T).reshape(num_new, self.num_kv_heads, -1), position)
            present[:, i, 1] = (h @ layer.value.T).reshape(num_new, self.num_kv_heads, -1)
            keys = np.concatenate([past[:, i, 0], present[:, i, 0]])  # (P + T, KV, hd)
            values = np.concatenate([past[:, i, 1], present[:, i, 1]])
            mixed = np.empty_like(query)  # (T, H, hd)
            for head in range(self.num_heads):
                weight = query[:, head] @ keys[:, head // group].T / np.sqrt(np.float32(self.head_dim))
                weight = np.where(visible, weight, -np.inf)
                weight = np.exp(weight - weight.max(axis=1, keepdims=True))
                weight /= weight.sum(axis=1, keepdims=True)
                mixed[:, head] = weight @ values[:, head // group]
            x = x + self._activations(mixed.reshape(num_new, -1)) @ layer.output.T
            h = self._activations(self._norm(x, layer.mlp_norm))
            gate = h @ layer.gate.T
            x = x + self._activations(gate / (1 + np.exp(-gate)) * (h @ layer.up.T)) @ layer.down.T
        logits: FloatArray = self._activations(self._norm(x, self.final_norm)) @ self.head.T
        return logits, present

    def _activations(self, x: FloatArray) -> FloatArray:
        """What a product with a weight matrix reads, (T, width): as it is here, rounded in `conformance`."""
        return x

    def _norm(self, x: FloatArray, weight: FloatArray) -> FloatArray:
        scale = np.sqrt(np.mean(x * x, axis=1, keepdims=True) + np.float32(self.norm_epsilon))
        normalised: FloatArray = (x / scale * weight).astype(np.float32)
        return normalised

    def _rotate(self, x: FloatArray, position: NDArray[np.int64]) -> FloatArray:
        """Rotary embedding, halves convention: x is (T, heads, hd)."""
        cos, sin = self.cos[position][:, None], self.sin[position][:, None]
        first, second = np.split(x, 2, axis=2)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=2)


def _expected_names(num_layers: int) -> set[str]:
    parts = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
    blocks = {f"blk.{i}.{part}.weight" for i in range(num_layers) for part in parts}
    return blocks | {"token_embd.weight", "output_norm.weight", "output.weight"}


class ReferenceSession:
    """One sequence; the cache is the plain array of all keys and values so far."""

    def __init__(self, backend: ReferenceBackend) -> None:
        self._backend = backend
        self._cache = np.zeros((0, len(backend.layers), 2, backend.num_kv_heads, backend.head_dim), dtype=np.float32)
        self._last_logits: FloatArray | None = None

    @property
    def length(self) -> int:
        """Positions appended so far."""
        return len(self._cache)

    @property
    def kv_bytes(self) -> int:
        """Bytes of the cache."""
        return self._cache.nbytes

    def append(self, inputs: Inputs) -> None:
        """See `Session.append`."""
        ids, embeddings = split_doors(inputs, self._backend.width, self._backend.vocab_size)
        check_capacity(self.length, len(ids), self._backend.context_length)
        if not len(ids):
            return
        logits, present = self._backend.forward(ids, embeddings, self._cache)
        self._cache = np.concatenate([self._cache, present])
        self._last_logits = logits[-1]

    def score(self, inputs: Inputs, at: Sequence[int], rows: Sequence[int] | None = None) -> FloatArray:
        """See `Session.score`."""
        ids, embeddings = split_doors(inputs, self._backend.width, self._backend.vocab_size)
        check_at(at, len(ids), self._last_logits is not None)
        check_rows(rows, self._backend.vocab_size)
        check_capacity(self.length, len(ids), self._backend.context_length)
        logits = self._backend.forward(ids, embeddings, self._cache)[0] if len(ids) else None
        found = [self._last_logits if index == -1 or logits is None else logits[index] for index in at]
        whole = np.array(found, dtype=np.float32).reshape(len(found), self._backend.vocab_size)
        return whole if rows is None else whole[:, list(rows)]

    def fork(self) -> ReferenceSession:
        """See `Session.fork`."""
        copy = ReferenceSession(self._backend)
        copy._cache, copy._last_logits = self._cache, self._last_logits  # never written in place
        return copy

    def rewind(self, length: int) -> None:
        """See `Session.rewind`."""
        check_rewind(self.length, length)
        if length < self.length:
            self._cache = self._cache[:length].copy()
            self._last_logits = None
