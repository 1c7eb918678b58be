from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="checkpoints are written with torch, the extra 'train'")

from safetensors.numpy import save_file

from smallhold.bundle.weights import QUANTIZED_FILE, QuantizedWeight, read_weights, stack_rows
from smallhold.errors import DataError, ShapeError


def test_a_quantized_weight_by_hand() -> None:
    values = np.zeros((1, 64), np.int8)
    values[0, 0], values[0, 33] = 127, -2
    weight = QuantizedWeight(values, np.array([[0.5, 0.25]], np.float16))
    assert weight.dequantize()[0, [0, 1, 33]].tolist() == [63.5, 0.0, -0.5]


@pytest.mark.parametrize(("columns", "groups"), [(33, 1), (64, 1), (64, 3)])
def test_integers_and_scales_that_do_not_belong_together_are_refused(columns: int, groups: int) -> None:
    with pytest.raises(ShapeError, match="quantized weight: values"):
        QuantizedWeight(np.zeros((2, columns), np.int8), np.zeros((2, groups), np.float16))


def test_values_beyond_their_bits_are_refused() -> None:
    for bits, value in ((8, -128), (4, 8), (4, -9)):
        with pytest.raises(ShapeError, match=f"quantized weight: {bits} bits hold"):
            QuantizedWeight(np.full((1, 32), value, np.int8), np.ones((1, 1), np.float16), bits)
    with pytest.raises(ShapeError, match="quantized weight: expected 8 or 4 bits, got 3"):
        QuantizedWeight(np.zeros((1, 32), np.int8), np.ones((1, 1), np.float16), 3)


def test_stacked_rows_are_the_same_weights_and_never_of_two_encodings() -> None:
    plain = [np.full((rows, 32), rows, np.float32) for rows in (1, 2)]
    np.testing.assert_array_equal(stack_rows(plain), np.concatenate(plain))
    quantized = [QuantizedWeight(np.full((rows, 32), rows, np.int8), np.ones((rows, 1), np.float16)) for rows in (1, 2)]
    stacked = stack_rows(quantized)
    assert isinstance(stacked, QuantizedWeight)
    np.testing.assert_array_equal(stacked.dequantize(), np.concatenate(plain))
    coarse = QuantizedWeight(np.ones((1, 32), np.int8), np.ones((1, 1), np.float16), 4)
    for mixed in ([plain[0], quantized[0]], [quantized[0], coarse]):
        with pytest.raises(ShapeError, match="expected all in float32 or all in the same encoding"):
            stack_rows(mixed)


def test_a_plain_checkpoint_has_no_quantized_part(make_checkpoint: Callable[..., Path]) -> None:
    weights = read_weights(make_checkpoint())
    assert not any(isinstance(w, QuantizedWeight) for w in [*weights.trunk.values(), *weights.encoder.values()])


def test_integers_and_dequantized_floats_of_a_checkpoint_are_the_same_weights(
    make_checkpoint: Callable[..., Path], quantize: Callable[[Path], Path]
) -> None:
    weights = read_weights(quantize(make_checkpoint()))
    quantized = {name: w for name, w in weights.trunk.items() if isinstance(w, QuantizedWeight)}
    assert len(quantized) == 15
    for name, weight in quantized.items():
        np.testing.assert_array_equal(weight.dequantize(), weights.checkpoint.trunk[name])


@pytest.mark.parametrize("damage", ["cut", "garbage", "foreign part", "no scale", "wrong scale"])
def test_damaged_integers_are_refused(
    make_checkpoint: Callable[..., Path], quantize: Callable[[Path], Path], damage: str
) -> None:
    folder = quantize(make_checkpoint())
    path = folder / QUANTIZED_FILE
    values = np.zeros((4, 32), np.int8)
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:-5])
        case "garbage":
            path.write_bytes(b"\x00" * 100)
        case "foreign part":
            save_file({"head/x.values": values, "head/x.scale": np.zeros((4, 1), np.float16)}, path)
        case "no scale":
            save_file({"trunk/x.values": values}, path)
        case "wrong scale":
            save_file({"trunk/x.values": values, "trunk/x.scale": np.zeros((4, 2), np.float16)}, path)
    with pytest.raises((DataError, ShapeError), match=r"truncated or malformed|quantized weight"):
        read_weights(folder)


def test_a_quantized_checkpoint_still_says_what_it_is(
    make_checkpoint: Callable[..., Path], quantize: Callable[[Path], Path]
) -> None:
    folder = quantize(make_checkpoint(seed=5))
    assert json.loads((folder / "smallhold.json").read_text()) == {"seed": 5}
    assert (folder / "tokenizer.json").exists()
