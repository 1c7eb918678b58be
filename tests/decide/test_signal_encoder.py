from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the slow twin is the torch module, the extra 'train'")

import torch

from smallhold.bundle.gguf import encoder_gguf, trunk_gguf, write_gguf
from smallhold.bundle.weights import read_weights
from smallhold.decide.signal_encoder import HINGE, SignalEncoder
from smallhold.errors import BackendError, ShapeError
from smallhold.learn.checkpoint import load_signal_model


def tensors(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """Two channels, width 1: h = c0 + 10 relu(c1 - k), nothing else."""
    zero = {
        "basis.weight": np.array([[1, 0, 0, 10, 0, 0, 0, 0]]),
        "basis.bias": np.zeros(1),
        "up.weight": np.zeros((2, 1)),
        "up.bias": np.zeros(2),
        "down.weight": np.zeros((1, 2)),
        "down.bias": np.array([0.5]),
        "static.weight": np.array([[2.0, 3.0, 4.0]]),
        "static.bias": np.array([1.0]),
    }
    return {name: np.asarray(array, np.float32) for name, array in {**zero, **changes}.items()}


META = {"general.architecture": "smallhold-signal", "general.name": "t", "smallhold.signal.channels": 2}


def test_an_embedding_by_hand() -> None:
    encoder = SignalEncoder(write_gguf(META, tensors()))
    assert encoder.bins(np.array([[1.0, HINGE + 0.1]], np.float32))[0, 0] == pytest.approx(1 + 1 + 0.5, abs=1e-5)
    assert encoder.prefix(np.array([1.0, 1.0, 1.0], np.float32))[0, 0] == 10


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("is_quantized", [False, True])
def test_numpy_and_torch_give_the_same_embeddings(
    make_checkpoint: Callable[..., Path], quantize: Callable[[Path], Path], width: int, is_quantized: bool
) -> None:
    folder = make_checkpoint(num_channels=11, hidden_size=width)  # 44 columns: padded to 64 when quantized
    folder = quantize(folder) if is_quantized else folder
    encoder = SignalEncoder(encoder_gguf(read_weights(folder), task="t"))
    model = load_signal_model(folder)
    rng = np.random.default_rng(0)
    channels, static = rng.normal(size=(50, 11)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    with torch.no_grad():
        expected = model.encoder(torch.from_numpy(channels)[None], torch.from_numpy(static)[None])[0].numpy()
    together = np.concatenate([encoder.prefix(static), encoder.bins(channels)])
    np.testing.assert_allclose(together, expected, rtol=0, atol=2e-5)  # float32 sums in another order
    one_by_one = np.concatenate([encoder.bins(row[None]) for row in channels])
    np.testing.assert_allclose(one_by_one, encoder.bins(channels), rtol=0, atol=1e-5)


def test_channels_and_static_features_of_another_length_are_refused() -> None:
    encoder = SignalEncoder(write_gguf(META, tensors()))
    with pytest.raises(ShapeError, match=r"channels: expected \(T, 2\), got \(1, 3\)"):
        encoder.bins(np.zeros((1, 3), np.float32))
    with pytest.raises(ShapeError, match=r"static features: expected \(3,\), got \(2,\)"):
        encoder.prefix(np.zeros(2, np.float32))


@pytest.mark.parametrize("name", sorted(tensors()))
def test_a_file_that_lacks_a_tensor_is_refused_by_name(name: str) -> None:
    without = {key: array for key, array in tensors().items() if key != name}
    with pytest.raises(BackendError, match=f"signal encoder: the file lacks '{name}'"):
        SignalEncoder(write_gguf(META, without))


def test_a_language_model_is_no_encoder(make_checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(BackendError, match="expected architecture 'smallhold-signal', got 'llama'"):
        SignalEncoder(trunk_gguf(read_weights(make_checkpoint()), name="x", tokens=[]))


def test_a_file_that_describes_no_encoder_is_refused() -> None:
    with pytest.raises(BackendError, match="describes no encoder"):
        SignalEncoder(write_gguf({**META, "smallhold.signal.channels": "many"}, tensors()))
