"""How many parameters a smaller model has and how many bytes its bundle will take, before there is one.

Counted, not built: a search looks at thousands of shapes. For plain Llama with a tied head and the signal encoder of
`learn/model.py`, all rows multiples of a quantization group; tests hold it against models and bundles that were built.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from smallhold.bundle.weights import GROUP_SIZE
from smallhold.compress.cost_model import layer_weights
from smallhold.learn.model import SignalModel
from smallhold.learn.trunk_config import TrunkConfig

#: Of one layer's nodes in the ONNX graph.
_NODES = 4_200
#: Of one entry of the vocabulary: its token and merge in `tokenizer.json` and in the GGUF file.
_ENTRY = 78
#: Tasks with their calibration, drift reference, card, licences, manifest and signature.
_PAPERS = 95_000
#: Bytes of the step of a group.
_STEP_ONNX, _STEP_GGUF = 4, 2


@dataclass(frozen=True, slots=True)
class Door:
    """Sizes of the signal encoder.

    Attributes:
        num_channels: C.
        num_static: S.
    """

    num_channels: int
    num_static: int

    @classmethod
    def of(cls, model: SignalModel) -> Door:
        """Of a model that is there."""
        return cls(model.encoder.basis.in_features // 4, model.encoder.static.in_features)

    def matrices(self, width: int) -> int:
        """Weights that ship quantized, at this width of the stream."""
        return width * (4 * self.num_channels) + 2 * width * width + 2 * width * width

    def others(self, width: int) -> int:
        """Parameters that stay float32."""
        return self.num_static * width + width + width + 2 * width + width


def count_parameters(config: TrunkConfig, door: Door) -> int:
    """Of trunk and signal encoder."""
    width, layers = config.hidden_size, config.num_hidden_layers
    trunk = layers * (layer_weights(config) + 2 * width) + width + config.vocab_size * width
    return trunk + door.matrices(width) + door.others(width)


def model_bytes(config: TrunkConfig, door: Door, bits: int) -> int:
    """Of trunk, signal encoder and vocabulary, as a bundle holds them: ONNX and GGUF side by side."""
    width, layers = config.hidden_size, config.num_hidden_layers
    linear, embedding, norms = layers * layer_weights(config), config.vocab_size * width, (2 * layers + 1) * width
    trunk = 0
    for step in (_STEP_ONNX, _STEP_GGUF):
        steps = 0 if bits == 32 else (linear + embedding) * step // GROUP_SIZE
        trunk += (linear + embedding) * bits // 8 + steps + 4 * norms
    matrices = door.matrices(width)
    encoder = 4 * matrices if bits == 32 else matrices * (GROUP_SIZE + _STEP_GGUF) // GROUP_SIZE
    encoder += 4 * door.others(width)
    tables = 4 * config.max_position_embeddings * config.head_dim  # rotary cosines and sines
    return trunk + encoder + tables + _NODES * layers + _ENTRY * config.vocab_size


def rest_bytes(run: Path) -> int:
    """Of what a smaller model takes over from its teacher's run: trees, n-grams, and the papers."""
    carried = [run / "teacher" / "trees.npz", *(run / "ngrams").glob("*.npz")]
    return _PAPERS + sum(path.stat().st_size for path in carried if path.exists())
