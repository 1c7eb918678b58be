"""Parameters of a model as one vector, and back: engines carry vectors, and know nothing of names and shapes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smallhold.errors import ShapeError
from smallhold.records import canonical_json, sha256_hex

Vector = NDArray[np.float32]
Parameters = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and shapes of a model's parameters, in the order in which they lie in the vector.

    Attributes:
        shapes: (name, shape) pairs sorted by name.
        frozen: Digest of what belongs to the model and is not trained; empty where there is nothing.
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    frozen: str = ""

    @classmethod
    def of(cls, parameters: Parameters, *, frozen: str = "") -> Layout:
        """The layout of some parameters, whatever order they are given in."""
        return cls(tuple((name, tuple(parameters[name].shape)) for name in sorted(parameters)), frozen)

    @property
    def size(self) -> int:
        """P, the numbers in the vector."""
        return sum(math.prod(shape) for _, shape in self.shapes)

    @property
    def digest(self) -> str:
        """SHA-256 of names, shapes and what is frozen."""
        return sha256_hex(canonical_json([self.frozen, [[name, list(shape)] for name, shape in self.shapes]]))

    def flatten(self, parameters: Parameters) -> Vector:
        """(P,) of named arrays.

        Raises:
            ShapeError: a name is missing or too many, or an array has another shape.
        """
        if set(parameters) != {name for name, _ in self.shapes}:
            raise ShapeError(f"parameters: expected {[name for name, _ in self.shapes]}, got {sorted(parameters)}")
        for name, shape in self.shapes:
            if tuple(parameters[name].shape) != shape:
                raise ShapeError(f"parameter {name}: expected the shape {shape}, got {tuple(parameters[name].shape)}")
        parts = [np.asarray(parameters[name], dtype=np.float32).ravel() for name, _ in self.shapes]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def unflatten(self, vector: Vector) -> dict[str, NDArray[np.float32]]:
        """Named views into a vector (P,).

        Raises:
            ShapeError: the vector has another length.
        """
        if vector.shape != (self.size,):
            raise ShapeError(f"vector: expected the shape {(self.size,)}, got {vector.shape}")
        found, at = {}, 0
        for name, shape in self.shapes:
            count = math.prod(shape)
            found[name] = vector[at : at + count].reshape(shape)
            at += count
        return found

    def digest_of(self, vector: Vector) -> str:
        """SHA-256 of a model: its layout and its numbers, as little-endian float32."""
        numbers = np.ascontiguousarray(vector, dtype="<f4")
        return hashlib.sha256(self.digest.encode() + numbers.tobytes()).hexdigest()
