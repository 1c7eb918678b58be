"""The signal encoder: one bin's channels to one embedding for the trunk, in numpy.

It is small (a thin matrix-vector product), so every Python runtime shares this code and its one weight file.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smallhold.device.gguf import read_gguf
from smallhold.errors import BackendError, ShapeError

FloatArray = NDArray[np.float32]

#: Knee of the hinge basis, in standard deviations of the rank-Gauss scale: the outer quarters of the readings.
HINGE = 0.7

ARCHITECTURE = "smallhold-signal"


class SignalEncoder:
    """h = A [x, relu(x - k), relu(-x - k), |x|] + a;  e = h + D silu(U h + u) + d;  prefix = S s + b.

    Args:
        gguf: Weight file with tensors `basis`, `up`, `down`, `static`, each with `.weight` (O, I) and `.bias` (O,).

    Raises:
        BackendError: not such a file.
    """

    def __init__(self, gguf: bytes) -> None:
        file = read_gguf(gguf)
        if file.metadata.get("general.architecture") != ARCHITECTURE:
            raise BackendError(
                f"signal encoder: expected architecture {ARCHITECTURE!r}, got "
                f"{file.metadata.get('general.architecture')!r}"
            )
        try:
            self.num_channels = int(file.metadata["smallhold.signal.channels"])
            self._weights = {
                name: (file.tensors[f"{name}.weight"].T, file.tensors[f"{name}.bias"])
                for name in ("basis", "up", "down", "static")
            }
        except KeyError as error:
            raise BackendError(f"signal encoder: the file lacks {error.args[0]!r}") from error
        except (ValueError, TypeError) as error:
            raise BackendError(f"signal encoder: the file describes no encoder: {error}") from error
        # Quantized matrices were padded with zero columns up to a multiple of their group.
        self._weights = {
            name: (np.ascontiguousarray(weight[: self._inputs(name, len(weight))]), bias)
            for name, (weight, bias) in self._weights.items()
        }
        self.num_static = len(self._weights["static"][0])

    def bins(self, channels: FloatArray) -> FloatArray:
        """Embeddings (T, D) of channels (T, C)."""
        if channels.ndim != 2 or channels.shape[1] != self.num_channels:
            raise ShapeError(f"channels: expected (T, {self.num_channels}), got {channels.shape}")
        basis = np.concatenate(
            [
                channels,
                np.maximum(channels - np.float32(HINGE), 0),
                np.maximum(-channels - np.float32(HINGE), 0),
                np.abs(channels),
            ],
            axis=1,
        )
        h = self._linear("basis", basis)
        gate = self._linear("up", h)
        return (h + self._linear("down", gate / (1 + np.exp(-gate)))).astype(np.float32)

    def prefix(self, static: FloatArray) -> FloatArray:
        """Embedding (1, D) of static features (S,)."""
        if static.shape != (self.num_static,):
            raise ShapeError(f"static features: expected ({self.num_static},), got {static.shape}")
        return self._linear("static", static[None].astype(np.float32))

    def _inputs(self, name: str, stored: int) -> int:
        """How many of the stored columns are real."""
        width = len(self._weights["basis"][1])
        return {"basis": 4 * self.num_channels, "up": width, "down": 2 * width}.get(name, stored)

    def _linear(self, name: str, x: FloatArray) -> FloatArray:
        weight, bias = self._weights[name]
        return x @ weight + bias
